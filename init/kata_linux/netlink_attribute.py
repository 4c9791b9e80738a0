"""Attributes of netlink messages: struct nlattr of <linux/netlink.h>, to bytes and back. Pure."""

from __future__ import annotations

import struct

_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_ATTRIBUTE = struct.Struct("=HH")

Attributes = dict[int, bytes]


def pack_attributes(attributes: Attributes) -> bytes:
    """Attributes as the kernel reads them, in the order given."""
    return b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
        for kind, value in attributes.items()
    )


def unpack_attributes(data: bytes) -> Attributes:
    """Attributes by type; of several of one type the last."""
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3
    return found


def text(value: bytes) -> str:
    """A string attribute, which ends with NUL."""
    return value.split(b"\0", 1)[0].decode(errors="replace")
