"""Stream state: which calls are open on a connection, and what the peer may still send on each.

Pure bookkeeping, bounded by `max_streams`. A stream opens with its request and ends with its response;
between them a client that said so may send data frames until it closes its side.
"""

from __future__ import annotations

from enum import Enum

from kata_protocols.ttrpc.errors import LocalProtocolError

MAX_STREAM_ID = 0xFFFFFFFF


class Role(Enum):
    """Which end of the connection this is."""

    CLIENT = "client"
    SERVER = "server"


class Side(Enum):
    """What the peer may still send on an open stream."""

    UNARY = "unary"  # its one message and nothing else
    SENDING = "sending"  # data frames
    CLOSED = "closed"  # no more data frames


class Streams:
    """The open streams of one connection."""

    __slots__ = ("_last_id", "_open", "max_streams")

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self._open: dict[int, Side] = {}
        self._last_id = -1

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._open

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether no further stream may open."""
        return len(self._open) >= self.max_streams

    def open(self, stream_id: int, side: Side) -> None:
        """Open a stream; the caller has checked that it is new and that there is room."""
        self._open[stream_id] = side

    def open_next(self, side: Side) -> int:
        """Open the client's next stream and return its id: 1, 3, 5, ..."""
        if self.full:
            raise LocalProtocolError(f"too many calls at once: at most {self.max_streams}")
        if self._last_id + 2 > MAX_STREAM_ID:
            raise LocalProtocolError("stream ids are used up: connect again")
        self._last_id += 2
        self._open[self._last_id] = side
        return self._last_id

    def close(self, stream_id: int) -> None:
        """Forget a stream."""
        if self._open.pop(stream_id, None) is None:
            raise LocalProtocolError(f"stream {stream_id} is not open")

    def discard(self, stream_id: int) -> bool:
        """Forget a stream if it is open; say whether it was."""
        return self._open.pop(stream_id, None) is not None

    def may_receive_data(self, stream_id: int) -> bool:
        """Whether a data frame from the peer has a meaning on this open stream."""
        return self._open[stream_id] is Side.SENDING

    def close_peer(self, stream_id: int) -> None:
        """The peer has sent its last data frame; the stream stays open until its response."""
        self._open[stream_id] = Side.CLOSED
