"""JSON Patch (RFC 6902): how a policy's answer changes the state that the next question sees. Pure.

Owns: applying a list of operations, all of them or none. Must not know: policies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any


class PatchError(ValueError):
    """An operation cannot be applied; the text has its number, what it is and why."""


def apply_patch(document: Any, operations: Sequence[Any]) -> Any:
    """The document with all operations applied; the one given stays as it is. Raises `PatchError`."""
    result = copy.deepcopy(document)
    for number, operation in enumerate(operations):
        try:
            result = _apply(result, operation)
        except (PatchError, KeyError, IndexError, TypeError) as error:
            why = f"has no {error}" if isinstance(error, KeyError) else error
            raise PatchError(f"operation {number} {_describe(operation)}: {why}") from None
    return result


def _describe(operation: Any) -> str:
    if not isinstance(operation, dict):
        return repr(operation)[:80]
    return f"{operation.get('op')} {operation.get('path')}"


def _apply(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict):
        raise PatchError("is no object")
    path = _parse(operation["path"])
    match operation["op"]:
        case "add":
            return _add(document, path, copy.deepcopy(operation["value"]))
        case "remove":
            return _remove(document, path)[0]
        case "replace":
            return _add(_remove(document, path)[0], path, copy.deepcopy(operation["value"]))
        case "move":
            source = _parse(operation["from"])
            if path[: len(source)] == source and path != source:
                raise PatchError("moves a value into itself")
            document, value = _remove(document, source)
            return _add(document, path, value)
        case "copy":
            return _add(document, path, copy.deepcopy(_find(document, _parse(operation["from"]))))
        case "test":
            if not _equal(_find(document, path), operation["value"]):
                raise PatchError("the value is another")
            return document
    raise PatchError("is none of add, remove, replace, move, copy, test")


def _parse(pointer: Any) -> list[str]:
    """The steps of a JSON pointer."""
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise PatchError(f"{pointer!r} is no JSON pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _index(items: list[Any], step: str) -> int:
    if not (step.isascii() and step.isdigit()) or (len(step) > 1 and step[0] == "0"):
        raise PatchError(f"{step!r} is no index of a list")
    return int(step)


def _find(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(document, dict):
            document = document[step]
        elif isinstance(document, list):
            document = document[_index(document, step)]
        else:
            raise PatchError(f"{step!r} is below a value that has no parts")
    return document


def _change(
    document: Any,
    path: Sequence[str],
    on_object: Callable[[dict[str, Any], str], Any],
    on_list: Callable[[list[Any], str], Any],
) -> Any:
    parent = _find(document, path[:-1])
    if isinstance(parent, dict):
        return on_object(parent, path[-1])
    if isinstance(parent, list):
        return on_list(parent, path[-1])
    raise PatchError(f"{path[-1]!r} is below a value that has no parts")


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value

    def insert(items: list[Any], step: str) -> None:
        index = len(items) if step == "-" else _index(items, step)
        if index > len(items):
            raise PatchError(f"index {index} is behind the list's end, {len(items)}")
        items.insert(index, value)

    _change(document, path, lambda parent, step: parent.__setitem__(step, value), insert)
    return document


def _remove(document: Any, path: Sequence[str]) -> tuple[Any, Any]:
    """The document without the value, and the value."""
    if not path:
        return None, document
    taken = _change(
        document,
        path,
        lambda parent, step: parent.pop(step),
        lambda items, step: items.pop(_index(items, step)),
    )
    return document, taken


def _equal(left: Any, right: Any) -> bool:
    """Equal as JSON values: True is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)
