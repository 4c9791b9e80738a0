"""yamux's frames: the header, its words, the bounds. Follows hashicorp/yamux, spec.md, version 0.

Must not know: streams, sessions.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct(">BBHII")  # version, type, flags, stream, length
HEADER_BYTES = HEADER.size
VERSION = 0

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR = range(3)  # why somebody goes away

WINDOW_BYTES = 256 * 1024  # of every stream at its beginning, both ways
MAX_WINDOW_BYTES = 1 << 30
# The most of our own data frames. With its header below the 32 KiB that a virtio port's write takes whole.
MAX_DATA_BYTES = 28 * 1024


class YamuxError(Exception):
    """The peer broke the protocol, and the session with it. `code` is what it is told by a go-away."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


class Header(NamedTuple):
    """A frame's first twelve bytes. `length` is a size only in a data frame."""

    kind: int
    flags: int
    stream_id: int
    length: int

    @property
    def opens_stream(self) -> bool:
        """Whether a stream begins with it."""
        return self.kind in (DATA, WINDOW) and bool(self.flags & SYN)


def pack(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """A header."""
    return HEADER.pack(VERSION, kind, flags, stream_id, length)


def parse(data: bytes | bytearray) -> Header:
    """Read a header. YamuxError when no peer means it."""
    version, kind, flags, stream_id, length = HEADER.unpack(data)
    if version != VERSION:
        raise YamuxError(f"version {version} is not {VERSION}")
    if kind > GO_AWAY:
        raise YamuxError(f"frame type {kind} is unknown")
    if (stream_id == 0) != (kind >= PING):
        raise YamuxError(f"frame type {kind} on stream {stream_id}")
    return Header(kind, flags, stream_id, length)
