"""One end of a yamux session, without IO.

Feed what arrives to `receive_data`, take events from `next_event` until it returns None, send what `take_output`
and `send_data` return. Follows hashicorp/yamux, spec.md. A peer that breaks the protocol raises YamuxError, once and
for all; the go-away for it is in the output.

Bounds: `max_streams` at once (more are reset), the window of each stream's unacknowledged bytes (more is an
error), and `output_bytes`, which the owner looks at before it reads on: a peer can ask for answers without end.
"""

from __future__ import annotations

from typing import NamedTuple

from kata_protocols.yamux.frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_BYTES,
    MAX_DATA_BYTES,
    MAX_WINDOW_BYTES,
    PING,
    RST,
    SYN,
    WINDOW,
    WINDOW_BYTES,
    Header,
    YamuxError,
    pack,
    parse,
)

MAX_STREAMS = 1024
_LAST_ID = 0x7FFFFFFF


class StreamOpened(NamedTuple):
    """The peer has opened a stream."""

    stream_id: int


class DataReceived(NamedTuple):
    """A piece of a stream; its bytes count against the window until `acknowledge`."""

    stream_id: int
    data: bytes


class StreamEnded(NamedTuple):
    """The peer sends no more on it."""

    stream_id: int


class StreamReset(NamedTuple):
    """The stream is no more, by the peer's doing."""

    stream_id: int


class WindowGrew(NamedTuple):
    """More may be sent on it."""

    stream_id: int


class Pong(NamedTuple):
    """The answer to a ping of this value."""

    value: int


class GoneAway(NamedTuple):
    """The peer takes no more streams. `code`: 0 for its end, else what it found wrong."""

    code: int


Event = StreamOpened | DataReceived | StreamEnded | StreamReset | WindowGrew | Pong | GoneAway


class _Stream:
    __slots__ = ("ended", "finished", "receive", "send", "taken")

    def __init__(self) -> None:
        self.send = WINDOW_BYTES  # what the peer still takes
        self.receive = WINDOW_BYTES  # what it may still send
        self.taken = 0  # acknowledged by the owner, not yet told
        self.ended = False  # by the peer
        self.finished = False  # by us


class Connection:
    """The protocol state of one end. The client's streams have odd numbers."""

    __slots__ = (
        *("_avoid", "_buffer", "_failed", "_left", "_limit", "_next_id", "_output", "_pieces"),
        *("_stream_id", "_streams", "peer_gone"),
    )

    def __init__(self, *, client: bool, max_streams: int = MAX_STREAMS, avoid: bytes = b"") -> None:
        """`avoid` is what no data frame of ours may contain, for a peer that takes it for something else."""
        self._limit = max_streams
        self._avoid = avoid
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1 if client else 2
        self._buffer = bytearray()
        self._left = 0  # of the data frame that is being received
        self._stream_id = 0  # whose it is; 0: nobody's, it is dropped
        self._pieces: list[Event] = []
        self._output: list[bytes] = []
        self._failed = False
        self.peer_gone = False

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def output_bytes(self) -> int:
        """How much `take_output` would give."""
        return len(self._output) * HEADER_BYTES

    @property
    def left_bytes(self) -> int:
        """How much of a data frame is still to come."""
        return self._left - len(self._buffer)

    def take_output(self) -> bytes:
        """What has to be sent, data aside: whole headers."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    # Receiving

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer."""
        self._buffer += data

    def next_event(self) -> Event | None:
        """Return the next event, or None when more bytes are needed. YamuxError ends the session."""
        if self._failed:
            return None
        try:
            while not self._pieces:
                if self._left:
                    if not self._buffer:
                        return None
                    self._take_piece()
                elif len(self._buffer) < HEADER_BYTES:
                    return None
                else:
                    header = parse(self._buffer[:HEADER_BYTES])
                    del self._buffer[:HEADER_BYTES]
                    self._take_header(header)
        except YamuxError as error:
            self._failed = True
            self._put(GO_AWAY, 0, 0, error.code)
            raise
        return self._pieces.pop(0)

    def _take_piece(self) -> None:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        if self._stream_id in self._streams:
            self._pieces.append(DataReceived(self._stream_id, piece))
        if not self._left:
            self._end_if_told()

    def _end_if_told(self) -> None:
        """The flag that ends a stream came with the frame whose data is complete now."""
        stream = self._streams.get(self._stream_id)
        if stream is not None and stream.ended:
            self._tell_end(self._stream_id, stream)

    def _take_header(self, header: Header) -> None:
        kind, flags, stream_id, length = header
        if kind == PING:
            if flags & SYN:
                self._put(PING, ACK, 0, length)
            elif flags & ACK:
                self._pieces.append(Pong(length))
        elif kind == GO_AWAY:
            self.peer_gone = True
            self._pieces.append(GoneAway(length))
        else:
            self._take_stream_frame(kind, flags, stream_id, length)

    def _take_stream_frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if flags & SYN:
            self._accept(stream_id)
        stream = self._streams.get(stream_id)
        if kind == DATA:
            self._begin_data(stream_id, stream, length)
        elif stream is not None and length:
            stream.send += length
            if stream.send > MAX_WINDOW_BYTES:
                raise YamuxError(f"window of stream {stream_id} grew beyond {MAX_WINDOW_BYTES} bytes")
            self._pieces.append(WindowGrew(stream_id))
        if stream is None:
            return
        if flags & RST:
            del self._streams[stream_id]
            self._pieces.append(StreamReset(stream_id))
        elif flags & FIN and not stream.ended:
            stream.ended = True
            if kind != DATA or not length:
                self._tell_end(stream_id, stream)

    def _accept(self, stream_id: int) -> None:
        if stream_id % 2 == self._next_id % 2:
            raise YamuxError(f"stream {stream_id} has a number of ours")
        if stream_id in self._streams:
            raise YamuxError(f"stream {stream_id} is open already")
        if len(self._streams) >= self._limit:
            self._put(WINDOW, RST, stream_id, 0)
            return
        self._streams[stream_id] = _Stream()
        self._put(WINDOW, ACK, stream_id, 0)
        self._pieces.append(StreamOpened(stream_id))

    def _begin_data(self, stream_id: int, stream: _Stream | None, length: int) -> None:
        if stream is None:
            if length > MAX_WINDOW_BYTES:
                raise YamuxError(f"data of {length} bytes for stream {stream_id}, which is not open")
            if length:
                self._put(
                    WINDOW, RST, stream_id, 0
                )  # from before us, or refused, or on its way when we reset it
        elif stream.ended and length:
            raise YamuxError(f"data on stream {stream_id} after its end")
        elif length > stream.receive:
            raise YamuxError(f"{length} bytes on stream {stream_id}, whose window has {stream.receive}")
        else:
            stream.receive -= length
        self._left, self._stream_id = length, stream_id if stream is not None else 0

    def _tell_end(self, stream_id: int, stream: _Stream) -> None:
        self._pieces.append(StreamEnded(stream_id))
        if stream.finished:
            del self._streams[stream_id]

    # Sending

    def open_stream(self) -> int | None:
        """Begin a stream; None when there are as many as there may be, or the peer takes no more."""
        stream_id = self._next_id
        if len(self._streams) >= self._limit or self.peer_gone or stream_id > _LAST_ID:
            return None
        self._next_id += 2
        self._streams[stream_id] = _Stream()
        self._put(WINDOW, SYN, stream_id, 0)
        return stream_id

    def sendable_bytes(self, stream_id: int) -> int:
        """How much of a stream may be sent now, in one frame."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.finished else min(stream.send, MAX_DATA_BYTES)

    def send_data(self, stream_id: int, data: bytes) -> list[bytes]:
        """The frames for at most `sendable_bytes` of a stream; `take_output` goes before them."""
        self._streams[stream_id].send -= len(data)
        frames = []
        while data:
            frame, data = self._cut_frame(stream_id, data)
            frames.append(frame)
        return frames

    def _cut_frame(self, stream_id: int, data: bytes) -> tuple[bytes, bytes]:
        """A frame that does not contain what is to be avoided, and the rest: a header comes between the two parts."""
        size = len(data)
        while True:
            frame = pack(DATA, 0, stream_id, size) + data[:size]
            found = frame.find(self._avoid) if self._avoid else -1
            if found < 0:
                return frame, data[size:]
            size = found + len(self._avoid) - 1 - HEADER_BYTES

    def acknowledge(self, stream_id: int, size: int) -> None:
        """The owner is done with so much of a stream's data: the peer may send as much again."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            return
        stream.taken += size
        if stream.taken >= WINDOW_BYTES // 2:
            self._put(WINDOW, 0, stream_id, stream.taken)
            stream.receive += stream.taken
            stream.taken = 0

    def finish(self, stream_id: int) -> None:
        """Send no more on it. What it has been given must have been sent before."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.finished:
            return
        stream.finished = True
        self._put(WINDOW, FIN, stream_id, 0)
        if stream.ended:
            del self._streams[stream_id]

    def reset(self, stream_id: int) -> None:
        """Give a stream up."""
        if self._streams.pop(stream_id, None) is not None:
            self._put(WINDOW, RST, stream_id, 0)

    def ping(self, value: int) -> None:
        """Ask for a `Pong` of this value."""
        self._put(PING, SYN, 0, value)

    def go_away(self, code: int) -> None:
        """Take no more streams."""
        self._put(GO_AWAY, 0, 0, code)

    def _put(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._output.append(pack(kind, flags, stream_id, length))
