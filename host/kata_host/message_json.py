"""JSON to protobuf messages and back, in the dialect of Kata's agent-ctl (spec of the host side, 1.5).

Keys are the proto's field names; any subset may be given and unknown keys are ignored. OCI's own spelling (`args`
for `Args`, `ociVersion` for `Version`) is understood too, so a bundle's config.json fills a `grpc.Spec`. Not
protobuf's canonical JSON.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

# JSON name -> field name, where neither is the other in another case.
_ALIASES = {"type_": "type", "ociversion": "version"}


class JsonMismatch(ValueError):
    """A value does not fit the field it was given for; the text names the field's path."""


def fill_message(message: Message, value: object, path: str = "") -> None:
    """Set the fields of `message` that `value`, a decoded JSON object, names."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise JsonMismatch(f"{path or message.DESCRIPTOR.name}: want an object, not {type(value).__name__}")
    for key, item in value.items():
        field = _find_field(message, str(key))
        if field is None or item is None:
            continue
        _set_field(message, field, item, f"{path}.{key}" if path else str(key))


def _find_field(message: Message, key: str) -> FieldDescriptor | None:
    descriptor: Any = message.DESCRIPTOR  # the stubs know two classes for each descriptor
    exact: FieldDescriptor | None = descriptor.fields_by_name.get(key)
    if exact is not None:
        return exact
    wanted = key.lower()
    wanted = _ALIASES.get(wanted, wanted)
    fields: list[FieldDescriptor] = list(descriptor.fields)
    return next((field for field in fields if field.name.lower() == wanted), None)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_value(field: FieldDescriptor) -> FieldDescriptor:
    assert field.message_type is not None  # noqa: S101 - a map field's entry is a message
    return field.message_type.fields_by_name["value"]


def _set_field(message: Message, field: FieldDescriptor, item: Any, path: str) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        _set_map(target, field, item, path)
    elif field.is_repeated:
        if not isinstance(item, list | tuple):
            raise JsonMismatch(f"{path}: want a list, not {type(item).__name__}")
        for number, each in enumerate(item):
            if field.message_type is not None:
                fill_message(target.add(), each, f"{path}[{number}]")
            else:
                target.append(_convert(field, each, f"{path}[{number}]"))
    elif field.message_type is not None:
        target.SetInParent()
        fill_message(target, item, path)
    else:
        try:
            setattr(message, field.name, _convert(field, item, path))
        except (TypeError, ValueError) as exc:
            raise JsonMismatch(f"{path}: {exc}") from None


def _set_map(target: Any, field: FieldDescriptor, item: Any, path: str) -> None:
    if not isinstance(item, dict):
        raise JsonMismatch(f"{path}: want an object, not {type(item).__name__}")
    value_field = _map_value(field)
    for key, each in item.items():
        if value_field.message_type is not None:
            fill_message(target[key], each, f"{path}.{key}")
        else:
            target[key] = _convert(value_field, each, f"{path}.{key}")


def _convert(field: FieldDescriptor, item: Any, path: str) -> Any:
    if field.enum_type is not None:
        return _convert_enum(field.enum_type, item, path)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _convert_bytes(item, path)
    if field.type == FieldDescriptor.TYPE_STRING and not isinstance(item, str):
        raise JsonMismatch(f"{path}: want text, not {type(item).__name__}")
    return item


def _convert_enum(enum: EnumDescriptor, item: Any, path: str) -> int:
    if isinstance(item, int):
        return item
    found = enum.values_by_name.get(item)
    if found is None:
        raise JsonMismatch(f"{path}: {item!r} is none of {', '.join(enum.values_by_name)}")
    return found.number


def _convert_bytes(item: Any, path: str) -> bytes:
    """A list of numbers as the original has it, or base64 text."""
    try:
        return base64.b64decode(item, validate=True) if isinstance(item, str) else bytes(item)
    except (binascii.Error, TypeError, ValueError) as exc:
        raise JsonMismatch(f"{path}: want a list of numbers 0-255 or base64 text: {exc}") from None


def dump_message(message: Message) -> dict[str, object]:
    """The message's set fields under their proto names; bytes as base64, 64-bit numbers as numbers."""
    return {field.name: _dump_field(field, value) for field, value in message.ListFields()}


def _dump_field(field: FieldDescriptor, value: Any) -> object:
    if _is_map(field):
        entry = _map_value(field)
        return {str(key): _dump_one(entry, each) for key, each in value.items()}
    if field.is_repeated:
        return [_dump_one(field, each) for each in value]
    return _dump_one(field, value)


def _dump_one(field: FieldDescriptor, value: Any) -> object:
    if field.message_type is not None:
        return dump_message(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value
