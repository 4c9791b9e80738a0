"""One ttRPC connection of the server: frames in, replies out, never more of either than the peer deserves.

Owns the connection's codec, transport and calls, and decides when to read. Knows nothing of listeners, nor of
how a call is run.

A handler that answers at once runs inside the read callback, and all replies of one read leave in one write.
Bounds per connection: FRAMES_PER_TURN frames between two turns of the event loop, MAX_CALLS unfinished calls,
MAX_CALL_BYTES of their requests, MAX_QUEUED_BYTES of replies that the peer has not read. At any of the last
three the server stops reading from that peer until the figure falls. And over all peers: MAX_HELD_BYTES of
frames that have not come to their end; whoever holds most of them is cut off.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kata_protocols.aio.calls import Calls
from kata_protocols.aio.transport import Transport
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.events import ConnectionEnded, Rejected, RequestReceived, StreamCancelled
from kata_protocols.ttrpc.state import Role

if TYPE_CHECKING:
    from kata_protocols.aio.server import Server

FRAMES_PER_TURN = 256
MAX_CALLS = 16384
MAX_CALL_BYTES = 64 * 1024 * 1024
MAX_QUEUED_BYTES = 1024 * 1024
MAX_HELD_BYTES = 32 * 1024 * 1024
LINGER_S = 5.0
PROBE_S = 1.0


class ServerConnection:
    """The server's end of one ttRPC connection."""

    __slots__ = (
        "_calls",
        "_closing",
        "_codec",
        "_lost",
        "_probe",
        "_server",
        "_transport",
        "_turn",
        "_unread",
        "held_bytes",
    )

    def __init__(self, server: Server, transport: Transport, peer: str) -> None:
        self._server = server
        self._transport = transport
        self._codec = Connection(Role.SERVER)
        self._calls = Calls(server, self._codec, transport, peer, self._on_call_finished)
        self._turn: asyncio.Handle | None = None  # the next turn, when one was not enough
        self._unread = False  # whether the codec may hold whole frames
        self.held_bytes = 0  # received, and not yet a whole frame
        self._probe: asyncio.TimerHandle | None = None
        self._closing = False
        self._lost = False

    # Reading

    def on_data(self, data: bytes | memoryview) -> None:
        """Take what the transport read; nothing at all is the peer's end."""
        self._codec.receive_data(data)
        self._take_turn()

    def _take_turn(self) -> None:
        """Handle a bounded number of frames and send their replies in one write."""
        self._turn = None
        next_event = self._codec.next_event
        begin = self._calls.begin
        replies: list[bytes] = []
        reply_bytes = 0
        for _ in range(FRAMES_PER_TURN):
            event = next_event()
            if event is None:
                break
            if isinstance(event, RequestReceived):
                reply = begin(event)
            elif isinstance(event, Rejected):
                reply = self._codec.send_rejection(event)
            elif isinstance(event, ConnectionEnded):
                self._transport.write(b"".join(replies))
                self._on_peer_end()
                return
            else:  # data frames of a client's stream: no method of the house has one
                if isinstance(event, StreamCancelled):
                    self._calls.cancel_stream(event.stream_id)
                continue
            if reply is not None:
                replies.append(reply)
                reply_bytes += len(reply)
                if reply_bytes > MAX_QUEUED_BYTES:
                    break
            elif self._full:
                break
        self._unread = event is not None
        if replies:
            self._transport.write(replies[0] if len(replies) == 1 else b"".join(replies))
        self._hold(self._codec.pending_bytes)
        self._pace()

    def _hold(self, held_bytes: int) -> None:
        if held_bytes != self.held_bytes:
            grown, self.held_bytes = held_bytes - self.held_bytes, held_bytes
            self._server.note_held(grown, MAX_HELD_BYTES)

    @property
    def _full(self) -> bool:
        """Whether this peer has as much unfinished here as it may."""
        return (
            len(self._calls) >= MAX_CALLS
            or self._calls.request_bytes > MAX_CALL_BYTES
            or self._transport.queued_bytes > MAX_QUEUED_BYTES
        )

    def _pace(self) -> None:
        """Go on reading, take another turn, or wait until the peer has read or its calls have finished."""
        if self._closing or self._lost or self._turn is not None:
            return
        if self._full:
            self._transport.pause_reading()
            if self._probe is None:
                self._probe = self._server.loop.call_later(PROBE_S, self._probe_peer)
        elif self._unread:
            # The kernel keeps what is unread: the codec never holds more than one read and one frame.
            self._transport.pause_reading()
            self._turn = self._server.loop.call_soon(self._take_turn)
        else:
            self._transport.resume_reading()

    def _probe_peer(self) -> None:
        """While nothing is read, the end of the peer would go unseen: look for it."""
        self._probe = None
        if self._transport.hung_up:
            self._transport.abort()
        else:
            self._pace()

    def on_drained(self) -> None:
        """Everything queued has been sent."""
        self._calls.on_drained()
        self._pace()

    def _on_call_finished(self) -> None:
        if self._closing and not self._calls:
            self._transport.close()
        else:
            self._pace()

    # The end

    def _on_peer_end(self) -> None:
        """The peer sends no more: what is queued may still be read by it, for a while."""
        self._transport.close()
        if not self._transport.closed:
            self._server.loop.call_later(LINGER_S, self._transport.abort)
        self._abandon_calls()

    def on_lost(self, _error: OSError | None) -> None:
        """The socket is closed."""
        self._abandon_calls()
        self._server.forget(self)

    def _abandon_calls(self) -> None:
        self._lost = True
        self._hold(0)
        self._stop_turns()
        self._calls.abandon()

    def _stop_turns(self) -> None:
        for handle in (self._turn, self._probe):
            if handle is not None:
                handle.cancel()
        self._turn = self._probe = None

    def begin_shutdown(self, *, silently: bool = False) -> None:
        """Take no more calls, end those that only wait, close when the others have answered."""
        if self._closing or self._lost:
            return
        self._closing = True
        self._transport.pause_reading()
        self._stop_turns()
        self._calls.end_waits(silently=silently)
        if not self._calls:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()
