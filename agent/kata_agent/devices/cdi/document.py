"""From the bytes of a CDI file to plain values: JSON, or YAML.

Owns the two notations and where in the text a value stands. Must not know: what the values mean. PyYAML is imported
with the first file that is YAML, and to find the line of a mistake (decision 0094). Of YAML only what JSON can say is
taken: no anchors (a small file could stand for a gigantic one), no dates, no numbers to the base 60, no key twice.
"""

from __future__ import annotations

from typing import Any

Path = tuple[str | int, ...]

_YAML = "tag:yaml.org,2002:"
# With those that YAML 1.1 takes for a date, for a number to the base 60, for yes and no.
_TEXTS = frozenset({"str", "timestamp", "int", "float", "bool", "value", "merge", "!"})


_SHOWN = 80


class Unreadable(Exception):
    """The text is neither notation; `line` counts from 1, 0 where unknown."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


def parse(data: bytes, *, yaml: bool) -> Any:
    """The value of a file. Raises `Unreadable`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"byte {data[error.start]:#04x} is not UTF-8", line) from None
    return _parse_yaml(text) if yaml else _parse_json(text)


def locate(data: bytes, path: Path) -> int:
    """The line of the value at `path` in a file that was parsed, or of the nearest value around it; 0 if unknown.

    JSON is read as YAML here, which knows lines; it is, but for tabs.
    """
    try:
        node = _compose(data.decode("utf-8-sig"))
    except Unreadable:
        return 0
    for step in path:
        inner = _step(node, step)
        if inner is None:
            break
        node = inner
    return int(node.start_mark.line) + 1


def _parse_json(text: str) -> Any:
    import json

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise Unreadable(f"key {key!r} is there twice")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=refuse_twice)
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise Unreadable("not a CDI file: nested too deeply") from None
    except ValueError:  # Python's own bound on the digits of a number, which tells no place
        raise Unreadable("not a CDI file: a number of thousands of digits") from None


def _parse_yaml(text: str) -> Any:
    return _value(_compose(text), set())


def _compose(text: str) -> Any:
    """The tree of nodes, each with its place."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise Unreadable(f"not YAML: {error.problem}", line) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(f"not YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        raise Unreadable("the file is empty", 1)
    return node


def _step(node: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return node.value[step] if node.id == "sequence" and step < len(node.value) else None
    if node.id != "mapping":
        return None
    return next((value for key, value in node.value if key.value == step), None)


def _value(node: Any, seen: set[int]) -> Any:
    """The plain value of a node."""
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise Unreadable("an alias: write the value out", line)
    seen.add(id(node))
    if node.id == "sequence":
        return [_value(item, seen) for item in node.value]
    if node.id == "mapping":
        return _mapping(node, seen)
    return _scalar(node, line)


def _mapping(node: Any, seen: set[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise Unreadable("a key that is not a text", line)
        if key.value in found:
            raise Unreadable(f"key {key.value!r} is there twice", line)
        found[key.value] = _value(value, seen)
    return found


def _scalar(node: Any, line: int) -> Any:
    text: str = node.value
    kind = node.tag.removeprefix(_YAML)
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and ":" not in text:
        return _integer(text, line)
    if kind == "float" and ":" not in text:
        return float("nan")  # no field is one: it is refused where it stands, by its name
    if kind in _TEXTS:
        return text
    raise Unreadable(f"the tag {node.tag}", line)


def _integer(text: str, line: int) -> int:
    """YAML 1.1 writes octal numbers as C does: 0666."""
    digits = text.replace("_", "")
    bare = digits.lstrip("+-")
    octal = len(bare) > 1 and bare[0] == "0" and bare.isdecimal()
    try:
        return int(digits, 8 if octal else 0)
    except ValueError:
        raise Unreadable(f"{text[:_SHOWN]!r} is no number", line) from None
