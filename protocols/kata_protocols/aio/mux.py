"""Many sockets over one byte channel: yamux on the event loop.

`attach` gives a stream to a socket; streams that the peer opens come as sockets, too, so whatever serves or uses
a connection does so unchanged. Sessions begin and end in band (`kata_protocols.yamux.line`); sockets that were given
while there is none wait for the next.

Streams speak in turn, a frame each, when the channel takes it: none is fetched before. Each write is a whole number
of frames and below 32 KiB, which a virtio port takes whole or not at all. Bounds: `max_streams` and as many waiting
sockets, MAX_HELD_BYTES that readers have not taken (the slowest reader's stream is reset), MAX_OUTPUT_BYTES
of answers to a peer that does not read (it is not read from).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from kata_protocols.aio.mux_stream import MuxStream, has_hung_up
from kata_protocols.aio.port import Port
from kata_protocols.yamux.connection import (
    MAX_STREAMS,
    DataReceived,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowGrew,
)
from kata_protocols.yamux.frame import HEADER_BYTES, NORMAL
from kata_protocols.yamux.line import Heard, Joined, Line, Parted

MAX_HELD_BYTES = 32 * 1024 * 1024
MAX_OUTPUT_BYTES = 64 * 1024
WRITE_BYTES = 32 * 1024 // HEADER_BYTES * HEADER_BYTES
FRAMES_PER_TURN = 32

OnStream = Callable[[socket.socket], object]
OnState = Callable[[str], None]


def ignore_state(_state: str) -> None:
    """Nobody wants to know."""


class Mux:
    """One end of a channel. Make it inside a running loop; it takes the descriptor over."""

    def __init__(
        self,
        fd: int,
        *,
        client: bool,
        on_stream: OnStream | None = None,
        on_state: OnState = ignore_state,
        max_streams: int = MAX_STREAMS,
        close_when_idle: bool = False,
    ) -> None:
        """Without `on_stream` the peer's streams are reset. `on_state` hears of sessions, in words."""
        self._loop = asyncio.get_running_loop()
        self._line = Line(client=client, max_streams=max_streams)
        self._on_stream = on_stream
        self._on_state = on_state
        self._limit = max_streams
        self._close_when_idle = close_when_idle
        self._streams: dict[int, MuxStream] = {}
        self._waiting: deque[socket.socket] = deque()
        self._ready: deque[MuxStream] = deque()
        self._unsent: deque[memoryview] = deque()
        self._held_bytes = 0
        self._turn: asyncio.Handle | None = None
        self._joined = asyncio.Event()
        self._settled = asyncio.Event()
        self._settling = False
        self._ended = asyncio.Event()
        self.end_reason = ""
        self._port = Port(
            fd,
            on_data=self._on_data,
            on_writable=self.flush,
            on_interrupted=lambda: self._begin_anew("the other side has hung up"),
            on_back=self.flush,
            on_end=lambda error: self.close(str(error) if error else "the channel has ended"),
        )
        self._port.resume_reading()
        self._begin_anew("")

    # For who uses it

    @property
    def closed(self) -> bool:
        """Whether the channel has ended."""
        return self._port.closed

    def attach(self, sock: socket.socket) -> None:
        """Take a connected socket over and give it a stream: now, or in the next session. Too many are closed."""
        if len(self._waiting) + len(self._streams) >= self._limit:
            self._drop_vanished()
        if self._port.closed or len(self._waiting) + len(self._streams) >= self._limit:
            sock.close()
            return
        self._waiting.append(sock)
        self._open_waiting()
        self.flush()

    def _drop_vanished(self) -> None:
        """Close what waits for a session and has nobody at its other end any more."""
        waiting, self._waiting = self._waiting, deque()
        for sock in waiting:
            if has_hung_up(sock):
                sock.close()
            else:
                self._waiting.append(sock)

    async def wait_joined(self) -> bool:
        """Wait for a session; False when the channel has ended before."""
        await self._joined.wait()
        return not self._port.closed

    async def wait_ended(self) -> str:
        """Wait until the channel has ended; why it did."""
        await self._ended.wait()
        return self.end_reason

    async def settle(self) -> None:
        """Wait until everything that closed sockets had to say has been written."""
        self._settled.clear()
        self._settling = True
        self._note_settled()
        await self._settled.wait()

    def close(self, reason: str = "closed") -> None:
        """End it, and with it every stream."""
        if self._port.closed:
            return
        self.end_reason = reason
        if self._line.joined:
            self._line.connection.go_away(NORMAL)
            self._send_words()
        self._port.close()
        if self._turn is not None:
            self._turn.cancel()
        self._close_streams()
        while self._waiting:
            self._waiting.popleft().close()
        for event in (self._joined, self._settled, self._ended):
            event.set()
        self._on_state(f"ended: {reason}")

    # Sessions

    def _begin_anew(self, reason: str) -> None:
        self._unsent.clear()
        self._handle_all(self._line.greet(reason))
        self.flush()

    def _on_data(self, data: bytes) -> None:
        self._handle_all(self._line.receive_data(data))
        self.flush()

    def _handle_all(self, heard: list[Heard]) -> None:
        for event in heard:
            self._handle(event)

    def _handle(self, event: Heard) -> None:
        match event:
            case DataReceived(stream_id, data):
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.deliver(data)
            case WindowGrew(stream_id):
                if (stream := self._streams.get(stream_id)) is not None and not stream.finished:
                    stream.watch()
            case StreamOpened(stream_id):
                self._accept(stream_id)
            case StreamEnded(stream_id):
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.end()
            case StreamReset(stream_id):
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.close()
            case Joined(plain):
                self._joined.set()
                self._on_state("joined a peer that knows yamux alone" if plain else "joined")
                self._open_waiting()
            case Parted(reason):
                self._joined.clear()
                self._on_state(f"parted: {reason}")
                self._close_streams()

    def _accept(self, stream_id: int) -> None:
        if self._on_stream is None:
            self._line.connection.reset(stream_id)
            return
        ours, theirs = socket.socketpair()
        self._add(stream_id, ours)
        self._on_stream(theirs)

    def _open_waiting(self) -> None:
        while self._waiting and self._line.joined:
            stream_id = self._line.connection.open_stream()
            if stream_id is None:
                return  # the peer goes away: the next session takes them
            self._add(stream_id, self._waiting.popleft())

    def _add(self, stream_id: int, sock: socket.socket) -> None:
        self._streams[stream_id] = MuxStream(self, self._line.connection, stream_id, sock)

    def _close_streams(self) -> None:
        for stream in list(self._streams.values()):
            stream.close()
        self._ready.clear()

    # What its streams tell

    def note_ready(self, stream: MuxStream) -> None:
        """The stream has something to say: it waits for its turn."""
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)
        self.flush()

    def note_held(self, grown_bytes: int) -> None:
        """What readers have not taken has grown; beyond the bound whoever left most of it is cut off."""
        self._held_bytes += grown_bytes
        if grown_bytes > 0 and self._held_bytes > MAX_HELD_BYTES:
            largest = max(self._streams.values(), key=lambda stream: stream.held_bytes)
            self._on_state(
                f"stream {largest.stream_id} is reset: its reader has left {largest.held_bytes} bytes"
            )
            largest.give_up()

    def forget(self, stream: MuxStream) -> None:
        """The stream is over."""
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]
        if self._close_when_idle and not self._streams and not self._waiting:
            self._loop.call_soon(self.close, "its only user has closed")

    # Sending

    def flush(self) -> None:
        """Write what the channel takes: words of the protocol first, then a frame of each stream in turn."""
        if self._port.closed or self._port.interrupted or self._turn is not None:
            return
        for _ in range(FRAMES_PER_TURN):
            if not self._send_words():
                break
            if not self._ready:
                break
            self._fetch(self._ready.popleft())
        else:
            self._turn = self._loop.call_soon(self._take_turn)
        self._pace()
        self._note_settled()

    def _take_turn(self) -> None:
        self._turn = None
        self.flush()

    def _fetch(self, stream: MuxStream) -> None:
        stream.queued = False
        data, more = stream.fetch()
        if not data:
            return
        frames = self._line.connection.send_data(stream.stream_id, data)
        words = self._line.take_output()  # those of this stream among them: they go first
        if len(words) + len(frames[0]) <= WRITE_BYTES:
            frames[0] = words + frames[0]
        else:
            self._queue(words)
        self._unsent.extend(map(memoryview, frames))
        if more:
            stream.queued = True
            self._ready.append(stream)

    def _queue(self, words: bytes) -> None:
        for start in range(0, len(words), WRITE_BYTES):
            self._unsent.append(memoryview(words)[start : start + WRITE_BYTES])

    def _send_words(self) -> bool:
        """Write what is unsent; whether all of it was taken."""
        self._queue(self._line.take_output())
        while self._unsent:
            piece = self._unsent[0]
            count = self._port.write(piece)
            if count < len(piece):
                self._unsent[0] = piece[count:]
                return False
            self._unsent.popleft()
        return True

    def _pace(self) -> None:
        if self._line.output_bytes + sum(map(len, self._unsent)) > MAX_OUTPUT_BYTES:
            self._port.pause_reading()
        else:
            self._port.resume_reading()

    def _note_settled(self) -> None:
        if not self._settling or self._unsent or self._line.output_bytes:
            return
        if all(stream.finished for stream in self._streams.values()):
            self._settled.set()
