"""What a connection can report. One event for each frame that means something to the program above."""

from __future__ import annotations

from typing import NamedTuple

from kata_protocols.status import Code

Metadata = tuple[tuple[str, str], ...]
Details = tuple[tuple[str, bytes], ...]


class RequestReceived(NamedTuple):
    """A call begins. `timeout_nano` 0 means none; `more` announces data frames (a client's stream)."""

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout_nano: int
    metadata: Metadata
    more: bool


class ResponseReceived(NamedTuple):
    """A call ended with this status code (0 is OK) and, if OK, this payload."""

    stream_id: int
    code: int
    message: str
    details: Details
    payload: bytes


class DataReceived(NamedTuple):
    """A message of a stream; `closed` says that the peer sends no more on it."""

    stream_id: int
    data: bytes
    closed: bool


class StreamCancelled(NamedTuple):
    """The client of a server's stream wants no more of it. A word of the house: ttRPC itself has none."""

    stream_id: int


class Rejected(NamedTuple):
    """A frame that cannot be used. A server answers it (`send_rejection`), a client fails the call."""

    stream_id: int
    code: Code
    message: str


class ConnectionEnded(NamedTuple):
    """The peer sends no more bytes. `truncated` says that it stopped inside a frame."""

    truncated: bool


Event = RequestReceived | ResponseReceived | DataReceived | StreamCancelled | Rejected | ConnectionEnded
