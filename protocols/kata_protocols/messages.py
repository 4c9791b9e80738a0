"""Message classes made of file descriptors, with protobuf's compiled part (upb) alone.

Owns: the classes of this process by full name. Must not know: any message. Follows: protobuf's descriptor.proto.

The modules that protoc writes for Python go through `google.protobuf.internal.builder`, which imports protobuf's pure
Python implementation, text format and registries beside the compiled part: 1.3 MB and 6 ms in every guest. A message
class is no more than upb's metaclass called with a descriptor of the process-wide pool; that pool is also
`google.protobuf`'s, so reflection, JSON and text format find the same classes. See decision 0012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from google._upb import _message as upb
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

if TYPE_CHECKING:
    from google._upb._message import Descriptor, FileDescriptor
    from google.protobuf.descriptor import EnumDescriptor

CLASSES: dict[str, type[Message]] = {}


def load(module: str, serialized: bytes, names: dict[str, Any]) -> FileDescriptor:
    """Add a file to the pool and put what it declares into `names`, as protoc's own modules do."""
    file = upb.default_pool.AddSerializedFile(serialized)
    for name, enum in file.enum_types_by_name.items():
        names[name] = EnumTypeWrapper(cast("EnumDescriptor", enum))
        names.update((value.name, value.number) for value in enum.values)
    for name, descriptor in file.message_types_by_name.items():
        names[name] = _make_class(module, descriptor)
    return file


def _make_class(module: str, descriptor: Descriptor) -> type[Message]:
    """The class of a message, with those of the messages inside it as attributes."""
    members: dict[str, Any] = {"DESCRIPTOR": descriptor, "__module__": module}
    for name, nested in descriptor.nested_types_by_name.items():
        members[name] = _make_class(module, nested)
    made = cast("type[Message]", upb.MessageMeta(descriptor.name, (Message,), members))
    CLASSES[descriptor.full_name] = made
    return made
