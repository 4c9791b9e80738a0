"""Settings files: TOML, with drop-ins beside it. Imported where there is a file.

Owns: `FILE` and then each `config.d/*.toml` in its folder, sorted by name; tables are merged, the later value wins.
Wrong syntax raises `SettingsFileError` with file, line and key, a wrong value is a complaint with the same. Unknown
keys are ignored. Must not know: the kernel command line.
"""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any

from kata_agent.config.setting import BOOLEAN, DURATION, INTEGER, STRING, STRINGS
from kata_agent.config.source import Found, Reading, SettingsFileError
from kata_agent.config.table import SETTINGS, Config
from kata_agent.config.value import UNIX, AllowList

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kata_agent.config.setting import Setting

DROP_INS = "config.d"
SIZE_LIMIT_BYTES = 1 << 20
_NEEDED = {STRING: "a string", INTEGER: "a number", BOOLEAN: "a boolean"}
_NAMES = {
    bool: "a boolean",
    int: "a number",
    str: "a string",
    dict: "a table",
    list: "a list",
    float: "a float",
}


class File:
    """A file that parsed."""

    __slots__ = ("document", "path", "text")

    def __init__(self, path: str, text: str, document: dict[str, Any]) -> None:
        self.path = path
        self.text = text
        self.document = document


def read_files(path: str, *, lines: bool = False) -> Reading:
    """The settings of a file and its drop-ins. Raises `SettingsFileError`. `lines`: origins have their line."""
    files = [read_file(each) for each in (path, *list_drop_ins(path))]
    merged: dict[str, Any] = {}
    for file in files:
        merge(merged, file.document)
    found = Found()
    for row in SETTINGS:
        keys = row.key.split(".")
        value = look_up(merged, keys)
        if row is Config.endpoints and value is None:
            _require_table(found, merged, files)
        if not row.key or value is None:
            continue
        if not row.under or found.values.get(row.under):
            _accept(found, row, value, _origin(files, keys), lines=lines)
    known = {row.key for row in SETTINGS if row.key}
    unknown = (
        f"{_place(file, key.split('.'))}: {key}"
        for file in files
        for key in flatten(file.document)
        if key not in known and key.rpartition(".")[0] not in known
    )
    return found.read(tuple(unknown) if lines else ())


def list_drop_ins(path: str) -> list[str]:
    """The drop-ins of a file, in the order in which they count. Raises `SettingsFileError`."""
    folder = os.path.join(os.path.dirname(path), DROP_INS)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsFileError(f"{folder}: {error.strerror}") from None
    return [f"{folder}/{name}" for name in sorted(names) if name.endswith(".toml") and name[0] != "."]


def read_file(path: str) -> File:
    """Read and parse. Raises `SettingsFileError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise SettingsFileError(f"{path}: {error.strerror}") from None
    if len(data) > SIZE_LIMIT_BYTES:
        raise SettingsFileError(f"{path}: larger than {SIZE_LIMIT_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsFileError(f"{path} line {line}: not UTF-8 text") from None
    try:
        return File(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsFileError(f"{path} {locate(text, str(error))}") from None
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond Python's own bounds
        raise SettingsFileError(f"{path}: {error}") from None


def locate(text: str, message: str) -> str:
    """`line 3, key log_level: what is wrong`, from the library's `What is wrong (at line 3, column 5)`."""
    what, _, place = message.rpartition(" (at line ")
    lines = text.splitlines() or [""]
    digits = place.partition(",")[0]
    number = int(digits) if what and digits.isdecimal() else len(lines)
    key = lines[number - 1].partition("=")[0].strip() if number <= len(lines) else ""
    reason = what or message.removesuffix(" (at end of document)")
    where = f"line {number}, key {key}" if key else f"line {number}"
    return f"{where}: {reason[:1].lower()}{reason[1:]}"


def merge(into: dict[str, Any], document: dict[str, Any]) -> None:
    """Put a later document over an earlier one: tables are merged, everything else is replaced."""
    for key, value in document.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        elif isinstance(value, dict):
            into[key] = {}
            merge(into[key], value)
        else:
            into[key] = value


def look_up(document: dict[str, Any], keys: Sequence[str]) -> Any:
    """The value at this path, None where there is none."""
    value: Any = document
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def flatten(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted name of everything that is not a table."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def find_line(text: str, keys: Sequence[str]) -> int:
    """The line on which this key of a text that parses is set, 0 for none.

    The library tells no places: the last line that looks like it and before which the text parses without the key.
    """
    found = 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.lstrip().lstrip("['\" \t").startswith(tuple(keys)):
            continue
        try:
            before = tomllib.loads("".join(lines[: number - 1]))
        except tomllib.TOMLDecodeError:
            continue  # inside a value of several lines
        if look_up(before, keys) is not None:
            break
        found = number
    return found


def _accept(found: Found, row: Setting[Any], value: Any, file: File, *, lines: bool) -> None:
    keys = row.key.split(".")
    origin = _place(file, keys) if lines else file.path
    try:
        given = _as_text(row.toml, value)
    except ValueError as error:
        kept = "nothing is allowed" if row is Config.endpoints else f"{row.default!r} kept"
        found.complaints.append(f"{_place(file, keys)}: {row.key}: {error}, {kept}")
        if row is Config.endpoints:
            found.values[row.field] = AllowList(frozenset(), f"settings: {found.complaints[-1]}")
        return
    complaints = len(found.complaints)
    found.accept(row, row.key, given, origin, float if isinstance(given, float) else None)
    if len(found.complaints) > complaints:
        found.complaints[-1] = f"{_place(file, keys)}: {found.complaints[-1]}"


def _require_table(found: Found, merged: dict[str, Any], files: Sequence[File]) -> None:
    """`endpoints = [...]` is no table: whoever wrote it wanted a list of what is allowed, so nothing is."""
    keys = [Config.endpoints.key.partition(".")[0]]
    value = look_up(merged, keys)
    if value is None or isinstance(value, dict):
        return
    place = _place(_origin(files, keys), keys)
    found.complaints.append(
        f"{place}: {keys[0]}: a table with the list `allowed` is needed, not {_name(value)}, nothing is allowed"
    )
    found.values[Config.endpoints.field] = AllowList(frozenset(), f"settings: {found.complaints[-1]}")


def _as_text(kind: str, value: Any) -> Any:
    """What the row's parser takes. ValueError says which type is needed."""
    if kind == DURATION:
        members: dict[str, Any] = value if isinstance(value, dict) else {}
        secs: Any = members.get("secs")
        nanos: Any = members.get("nanos")
        if _is_count(secs) and _is_count(nanos) and nanos < 1_000_000_000:
            return secs + nanos / 1e9 if nanos else str(secs)
        raise ValueError(f"a duration {{ secs = 3, nanos = 0 }} is needed, not {_name(value)}")
    if kind == STRINGS:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return value
        other = "a list with something else in it" if isinstance(value, list) else _name(value)
        raise ValueError(f"a list of strings is needed, not {other}")
    if kind == BOOLEAN and isinstance(value, bool):
        return "true" if value else "false"
    if kind == INTEGER and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # Where there is no vsock, a socket's path stands in for a port.
    if isinstance(value, str) and (kind == STRING or (kind == INTEGER and value.startswith(UNIX))):
        return value
    raise ValueError(f"{_NEEDED[kind]} is needed, not {_name(value)}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _origin(files: Sequence[File], keys: Sequence[str]) -> File:
    """The last file that has the key."""
    return next(file for file in reversed(files) if look_up(file.document, keys) is not None)


def _place(file: File, keys: Sequence[str]) -> str:
    return f"{file.path} line {find_line(file.text, keys)}"
