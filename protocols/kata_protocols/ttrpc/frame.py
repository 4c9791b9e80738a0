"""Frames: the ten-byte header, splitting a byte stream into frames, the size limit.

Knows nothing of streams or envelopes. Document: spec of the host side, 2.1: length, stream id (both
unsigned 32 bits, big-endian), type, flags, data. A frame beyond the limit is skipped to its last byte and
reported; the connection goes on with the next one.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

HEADER = Struct(">IIBB")
HEADER_BYTES = 10
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

REQUEST = 1
RESPONSE = 2
DATA = 3

REMOTE_CLOSED = 0x01
REMOTE_OPEN = 0x02
NO_DATA = 0x04


class Frame(NamedTuple):
    """One whole frame."""

    stream_id: int
    kind: int
    flags: int
    data: bytes


class Oversized(NamedTuple):
    """A frame whose data exceeded the limit; it has been skipped."""

    stream_id: int
    kind: int
    length: int


def encode_frame(stream_id: int, kind: int, flags: int, data: bytes) -> bytes:
    """Return the frame's bytes."""
    return HEADER.pack(len(data), stream_id, kind, flags) + data


class FrameReader:
    """Splits received bytes into frames. Take all frames after each `receive`, or what is unread piles up."""

    __slots__ = ("_buffer", "_limit_bytes", "_oversized", "_position", "_skip_bytes")

    def __init__(self, limit_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._skip_bytes = 0
        self._oversized: Oversized | None = None

    @property
    def pending_bytes(self) -> int:
        """How many received bytes have not been returned as part of a frame."""
        return len(self._buffer) - self._position

    @property
    def inside_frame(self) -> bool:
        """Whether the stream would be cut inside a frame if it ended here."""
        return self._oversized is not None or self.pending_bytes > 0

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Append received bytes."""
        if self._position == len(self._buffer):
            self._buffer = bytes(data)
        elif isinstance(self._buffer, bytearray):
            del self._buffer[: self._position]
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer[self._position :])
            self._buffer += data
        self._position = 0

    def next_frame(self) -> Frame | Oversized | None:
        """Return the next whole frame, the report of a skipped one, or None: more bytes are needed."""
        if self._oversized is not None:
            return self._skip()
        start = self._position + HEADER_BYTES
        available = len(self._buffer) - start
        if available < 0:
            return None
        length, stream_id, kind, flags = HEADER.unpack_from(self._buffer, self._position)
        if length > available:
            if length > self._limit_bytes:
                return self._begin_skip(Oversized(stream_id, kind, length))
            return None
        if length > self._limit_bytes:
            return self._begin_skip(Oversized(stream_id, kind, length))
        end = start + length
        data = self._buffer[start:end]
        self._position = end
        if type(data) is not bytes:
            data = bytes(data)
            if end == len(self._buffer):  # an idle connection must not keep its largest message
                self._buffer, self._position = b"", 0
        return Frame(stream_id, kind, flags, data)

    def _begin_skip(self, oversized: Oversized) -> Oversized | None:
        self._position += HEADER_BYTES
        self._skip_bytes = oversized.length
        self._oversized = oversized
        return self._skip()

    def _skip(self) -> Oversized | None:
        step = min(self._skip_bytes, self.pending_bytes)
        self._position += step
        self._skip_bytes -= step
        if self._skip_bytes:
            return None
        oversized, self._oversized = self._oversized, None
        return oversized
