"""Spans as Kata's trace forwarder reads them: `bincode` 1.3 over the OpenTelemetry SDK's structure of release 0.14.

Owns the codec and its frame: eight bytes of length, big-endian, then the span. Must not know: sockets, whose spans
they are. Follows: the crates' own encoding, of which the tests hold samples. Fixed little-endian integers, lengths of
64 bits, enumerations of 32, options of one byte. Events and links are always empty here, and refused when they are not.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

Value = bool | int | float | str

CLIENT, SERVER, PRODUCER, CONSUMER, INTERNAL = range(5)
UNSET, OK, ERROR = range(3)
HEAD_BYTES = 8
LIMIT_BYTES = 1 << 20

_BOOL, _I64, _F64, _STRING = range(4)
_MAX_ENTRIES = 128
_SECOND_NS = 1_000_000_000


class Span(NamedTuple):
    """One span; times are CLOCK_REALTIME. Ids are as they are written in `traceparent`, big-endian."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    kind: int = SERVER
    flags: int = 1
    remote: bool = False
    state: tuple[tuple[str, str], ...] = ()
    status: int = UNSET
    status_message: str = ""
    resource: dict[str, Value] | None = None


def encode_span(span: Span) -> bytes:
    """The span's bytes without the frame."""
    parts = [span.trace_id[::-1], span.span_id[::-1], struct.pack("<BB", span.flags, span.remote)]
    parts.append(b"\x01" + _length(len(span.state)) if span.state else b"\x00")
    parts += [_text(text) for pair in span.state for text in pair]
    parts += [span.parent_id[::-1], struct.pack("<I", span.kind), _text(span.name)]
    parts += [_time(span.start_ns), _time(span.end_ns), _map(span.attributes)]
    parts += [
        _length(len(span.attributes)),
        *map(_text, span.attributes),
        struct.pack("<II", _MAX_ENTRIES, 0),
    ]
    parts += [struct.pack("<BII", 0, _MAX_ENTRIES, 0)] * 2  # events and links
    parts += [struct.pack("<I", span.status), _text(span.status_message)]
    parts.append(b"\x00" if span.resource is None else b"\x01" + _map(span.resource))
    return b"".join(parts)


def frame(data: bytes) -> bytes:
    """A span's bytes as they travel."""
    return len(data).to_bytes(HEAD_BYTES, "big") + data


def decode_span(data: bytes) -> Span:
    """The span of these bytes. Raises ValueError."""
    reader = _Reader(data)
    trace_id, span_id = reader.take(16)[::-1], reader.take(8)[::-1]
    flags, remote = reader.number(1), bool(reader.number(1))
    state = tuple((reader.text(), reader.text()) for _ in range(reader.count() if reader.number(1) else 0))
    parent_id, kind, name = reader.take(8)[::-1], reader.number(4), reader.text()
    start_ns, end_ns = reader.time(), reader.time()
    attributes = reader.map()
    for _ in range(reader.count()):
        reader.text()  # the order in which they would be evicted
    reader.take(8)
    for what in ("events", "links"):
        if reader.number(1) and reader.count():
            raise ValueError(f"a span with {what}")
        reader.take(8)
    status, message = reader.number(4), reader.text()
    resource = reader.map() if reader.number(1) else None
    if reader.left:
        raise ValueError(f"{reader.left} bytes behind a span")
    return Span(
        trace_id, span_id, parent_id, name, start_ns, end_ns, attributes, kind, flags, remote, state,
        status, message, resource,
    )  # fmt: skip


class _Reader:
    """Takes values off the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise ValueError(f"a span is cut short: {length} bytes wanted, {self.left} left")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def count(self) -> int:
        count = self.number(8)
        if count > self.left:
            raise ValueError(f"a span is cut short: {count} entries wanted, {self.left} bytes left")
        return count

    def text(self) -> str:
        return self.take(self.number(8)).decode("utf-8", "replace")

    def time(self) -> int:
        return self.number(8) * _SECOND_NS + self.number(4)

    def map(self) -> dict[str, Value]:
        return {self.text(): self.value() for _ in range(self.count())}

    def value(self) -> Value:
        match self.number(4):
            case 0:
                return bool(self.number(1))
            case 1:
                return int.from_bytes(self.take(8), "little", signed=True)
            case 2:
                number: float = struct.unpack("<d", self.take(8))[0]
                return number
            case 3:
                return self.text()
            case kind:
                raise ValueError(f"a span's value of kind {kind}")


def _length(count: int) -> bytes:
    return struct.pack("<Q", count)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return _length(len(data)) + data


def _time(time_ns: int) -> bytes:
    return struct.pack("<QI", *divmod(time_ns, _SECOND_NS))


def _map(values: dict[str, Value]) -> bytes:
    return _length(len(values)) + b"".join(_text(key) + _value(value) for key, value in values.items())


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<Iq", _I64, value)
    if isinstance(value, float):
        return struct.pack("<Id", _F64, value)
    return struct.pack("<I", _STRING) + _text(value)
