"""What a CDI file says, checked: its kind, its devices and the edits that each needs. Pure.

Owns every field, its type, and the version that it needs. Must not know: files, how edits are applied. Follows: CDI
1.1, whose rules are strict: a field that is not known, or newer than the file's version, makes the file unusable.
Names of fields are compared without regard to case, as the interface's own reader does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.devices.cdi import name
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kata_agent.devices.cdi.document import Path

Edits = dict[str, Any]
"""The fields of `containerEdits` that are there, under their own names."""

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NO_ACCESS = "none"
_U32 = 2**32 - 1
_LONGEST_CLASS = 4095


class Malformed(Exception):
    """A field is not what it must be; `path` leads to it."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(f"{describe_path(path)}: {text}" if path else text)
        self.path = path


class Definition(Record):
    """A file's content."""

    kind: str
    edits: Edits
    """For a container that has any of the devices."""
    devices: dict[str, Edits]


def describe_path(path: Path) -> str:
    """`devices[0].containerEdits.env[2]`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def parse_definition(document: Any) -> Definition:
    """A whole file. Raises `Malformed`."""
    fields = _record(document, (), _FILE, ("cdiVersion", "kind", "devices"))
    _check_name(name.check_kind, ("kind",), fields["kind"])
    devices: dict[str, Edits] = {}
    for number, device in enumerate(fields["devices"]):
        path = ("devices", number)
        _check_name(name.check_device, (*path, "name"), device["name"])
        if device["name"] in devices:
            raise Malformed((*path, "name"), f"device {device['name']!r} is there twice")
        if not any(device["containerEdits"].values()):
            raise Malformed((*path, "containerEdits"), "has no edits: the device would do nothing")
        devices[device["name"]] = device["containerEdits"]
    if not devices:
        raise Malformed(("devices",), "is empty: a file defines one device at least")
    _check_version(fields)
    return Definition(fields["kind"], fields.get("containerEdits") or {}, devices)


def plan_least_version(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The least version that has all that a file uses, and what needs it."""
    edits = [fields.get("containerEdits") or {}, *(device["containerEdits"] for device in fields["devices"])]
    uses = {
        "1.1.0": [
            *(
                f"intelRdt.{key}"
                for one in edits
                for key in ("schemata", "enableMonitoring")
                if _rdt(one).get(key)
            ),
            *("netDevices" for one in edits if one.get("netDevices")),
        ],
        "0.7.0": [key for one in edits for key in ("intelRdt", "additionalGids") if one.get(key)],
        "0.6.0": [
            *("annotations" for one in (fields, *fields["devices"]) if one.get("annotations")),
            *("a dot in the class" for class_ in [fields["kind"].partition("/")[2]] if "." in class_),
        ],
        "0.5.0": [
            *(
                "a name that begins with a digit"
                for device in fields["devices"]
                if device["name"][0].isdigit()
            ),
            *(
                "hostPath of a device node"
                for one in edits
                for node in one.get("deviceNodes") or []
                if node.get("hostPath")
            ),
        ],
        "0.4.0": [
            "type of a mount" for one in edits for mount in one.get("mounts") or [] if mount.get("type")
        ],
    }
    return next(((version, use[0]) for version, use in uses.items() if use), (VERSIONS[0], ""))


def _check_version(fields: Mapping[str, Any]) -> None:
    version = fields["cdiVersion"].removeprefix("v")
    if version not in VERSIONS:
        raise Malformed(("cdiVersion",), f"{fields['cdiVersion']!r} is none of {', '.join(VERSIONS)}")
    least, use = plan_least_version(fields)
    if VERSIONS.index(version) < VERSIONS.index(least):
        raise Malformed(("cdiVersion",), f"is {version}, but {use} needs {least} at least")


def _rdt(edits: Edits) -> dict[str, Any]:
    return edits.get("intelRdt") or {}


def _check_name(check: Callable[[str], None], path: Path, text: str) -> None:
    try:
        check(text)
    except ValueError as error:
        raise Malformed(path, str(error)) from None


def _record(
    value: Any, path: Path, fields: Mapping[str, Callable[[Any, Path], Any]], needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields of an object that are set, each checked, under their own names."""
    if not isinstance(value, dict):
        raise Malformed(path, f"is {_describe(value)}, an object is needed")
    known = {field.lower(): field for field in fields}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        field = known.get(key.lower())
        if field is None:
            raise Malformed((*path, key), f"is no field of CDI {VERSIONS[-1]} here: {', '.join(fields)} are")
        if field in found:
            raise Malformed((*path, key), "is there twice")
        if inner is not None:
            found[field] = fields[field](inner, (*path, key))
    for field in needed:
        if found.get(field) in (None, ""):
            raise Malformed((*path, field), "is missing")
    return found


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str):
        raise Malformed(path, f"is {_describe(value)}, a text is needed (quote it)")
    if "\0" in value:
        raise Malformed(path, "has a NUL in it")
    return value


def _whole(low: int, high: int) -> Callable[[Any, Path], int]:
    def check(value: Any, path: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Malformed(path, f"is {_describe(value)}, a whole number is needed")
        if not low <= value <= high:
            raise Malformed(path, f"is {value}, which is not in {low}..{high}")
        return value

    return check


def _flag(value: Any, path: Path) -> bool:
    if not isinstance(value, bool):
        raise Malformed(path, f"is {_describe(value)}, true or false is needed")
    return value


def _each(check: Callable[[Any, Path], Any]) -> Callable[[Any, Path], list[Any]]:
    def check_all(value: Any, path: Path) -> list[Any]:
        if not isinstance(value, list):
            raise Malformed(path, f"is {_describe(value)}, a list is needed")
        return [check(item, (*path, number)) for number, item in enumerate(value)]

    return check_all


def _object(
    fields: Mapping[str, Callable[[Any, Path], Any]], *needed: str
) -> Callable[[Any, Path], dict[str, Any]]:
    return lambda value, path: _record(value, path, fields, needed)


def _variable(value: Any, path: Path) -> str:
    text = _text(value, path)
    if text.find("=") <= 0:
        raise Malformed(path, f"{text!r} is not NAME=VALUE")
    return text


def _one_of(*words: str) -> Callable[[Any, Path], str]:
    def check(value: Any, path: Path) -> str:
        if value not in words:
            raise Malformed(path, f"{value!r} is none of {', '.join(words)}")
        return str(value)

    return check


def _access(value: Any, path: Path) -> str:
    text = _text(value, path)
    if text != NO_ACCESS and text.strip("rwm"):
        raise Malformed(path, f"{text!r} is neither made of r, w and m nor {NO_ACCESS!r}")
    return text


def _absolute(value: Any, path: Path) -> str:
    text = _text(value, path)
    if text and not text.startswith("/"):
        raise Malformed(path, f"{text!r} is not absolute")
    return text


def _service_class(value: Any, path: Path) -> str:
    text = _text(value, path)
    if text != "/" and (len(text) > _LONGEST_CLASS or text in (".", "..") or "/" in text or "\n" in text):
        raise Malformed(path, f"{text[:80]!r} is no name of a class of service")
    return text


def _notes(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Malformed(path, f"is {_describe(value)}, an object is needed")
    return {key: _text(inner, (*path, key)) for key, inner in value.items()}


def _describe(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a fraction",
    }
    return "empty" if value is None else kinds[type(value)]


_NODE = _object(
    {
        "path": _absolute,
        "hostPath": _absolute,
        "type": _one_of("", "b", "c", "u", "p"),
        "major": _whole(0, _U32),
        "minor": _whole(0, _U32),
        "fileMode": _whole(0, 0o7777),
        "permissions": _access,
        "uid": _whole(0, _U32),
        "gid": _whole(0, _U32),
    },
    "path",
)
_INTERFACE = _object({"hostInterfaceName": _text, "name": _text}, "hostInterfaceName", "name")
_HOOK = _object(
    {
        "hookName": _one_of(*HOOKS),
        "path": _absolute,
        "args": _each(_text),
        "env": _each(_variable),
        "timeout": _whole(1, 2**31 - 1),
    },
    "hookName",
    "path",
)
_MOUNT = _object(
    {"hostPath": _text, "containerPath": _absolute, "options": _each(_text), "type": _text},
    "hostPath",
    "containerPath",
)
_RDT = _object(
    {
        "closID": _service_class,
        "l3CacheSchema": _text,
        "memBwSchema": _text,
        "schemata": _each(_text),
        "enableMonitoring": _flag,
    }
)
_EDITS = _object(
    {
        "env": _each(_variable),
        "deviceNodes": _each(_NODE),
        "netDevices": _each(_INTERFACE),
        "hooks": _each(_HOOK),
        "mounts": _each(_MOUNT),
        "intelRdt": _RDT,
        "additionalGids": _each(_whole(0, _U32)),
    }
)
_DEVICE = _object({"name": _text, "annotations": _notes, "containerEdits": _EDITS}, "name", "containerEdits")
_FILE: Mapping[str, Callable[[Any, Path], Any]] = {
    "cdiVersion": _text,
    "kind": _text,
    "annotations": _notes,
    "devices": _each(_DEVICE),
    "containerEdits": _EDITS,
}
