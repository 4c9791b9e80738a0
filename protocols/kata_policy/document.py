"""A request as the input document of a policy: the JSON that Kata's agent makes of it. Pure.

Owns: the shape. Follows: Kata's agent 3.21, "Policy", "Input document", which is what its structs serialise to and not
protobuf's own JSON: every field is there, an absent message is null, enums are numbers, bytes are lists of numbers,
`type` is `type_`. Must not know: rules.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

# A word of Rust cannot name a field there.
_RENAMED = {"type": "type_"}


def input_json(message: Message) -> str:
    """The input document's text."""
    return json.dumps(input_document(message), separators=(",", ":"), allow_nan=False)


def input_document(message: Message) -> dict[str, Any]:
    """The input document."""
    document: dict[str, Any] = {}
    fields: Any = message.DESCRIPTOR.fields  # the stubs know two classes for each descriptor
    for field in fields:
        oneof = field.containing_oneof
        # An `optional` field stands in a oneof of its own that nobody wrote.
        if oneof is not None and len(oneof.fields) == 1 and oneof.name.startswith("_"):
            present = message.HasField(field.name)
            document[_name(field)] = _value(field, getattr(message, field.name)) if present else None
        elif oneof is not None:
            document.setdefault(oneof.name, None)
            if message.WhichOneof(oneof.name) == field.name:
                variant = "".join(word.capitalize() for word in field.name.split("_"))
                document[oneof.name] = {variant: _value(field, getattr(message, field.name))}
        else:
            document[_name(field)] = _field(message, field)
    return document


def _name(field: FieldDescriptor) -> str:
    return _RENAMED.get(field.name, field.name)


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        entry = kind.fields_by_name["value"]
        return {str(key): _value(entry, each) for key, each in value.items()}
    if field.is_repeated:
        return [_value(field, each) for each in value]
    if kind is not None and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return input_document(value)
    if isinstance(value, bytes):
        return list(value)
    return value
