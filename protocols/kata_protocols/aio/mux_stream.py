"""One stream of a channel, and the socket that stands for it: bytes in both directions, each end's own end.

What comes from the channel goes to the socket as fast as its reader takes it and is acknowledged then: a slow reader
fills its own window and nobody else's. What the socket has to say is fetched by the channel when it is this
stream's turn. Must not know: other streams, the channel's descriptor.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kata_protocols.yamux.connection import Connection

LINGER_S = 5.0


def has_hung_up(sock: socket.socket) -> bool:
    """Whether the other end was closed, which is more than that it sends no more."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


class Owner(Protocol):
    """The channel, as its streams see it."""

    def note_ready(self, stream: MuxStream) -> None:
        """The stream has something to say."""

    def note_held(self, grown_bytes: int) -> None:
        """What its reader has not taken has grown by so much."""

    def forget(self, stream: MuxStream) -> None:
        """The stream is over."""

    def flush(self) -> None:
        """There are words of the protocol to be sent."""


class MuxStream:
    """A stream and its socket, which it owns."""

    __slots__ = (
        *(
            "_connection",
            "_fd",
            "_held",
            "_linger",
            "_loop",
            "_owner",
            "_peer_ended",
            "_watching",
            "_writing",
        ),
        *("closed", "finished", "queued", "sock", "stream_id"),
    )

    def __init__(self, owner: Owner, connection: Connection, stream_id: int, sock: socket.socket) -> None:
        sock.settimeout(0)
        self.stream_id = stream_id
        self.sock = sock
        self._fd = sock.fileno()
        self.queued = False  # for its turn to speak
        self.finished = False  # has nothing more to say
        self.closed = False
        self._owner = owner
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()  # for the socket; at most a window
        self._peer_ended = False
        self._watching = False
        self._writing = False
        self._linger: asyncio.TimerHandle | None = None
        self.watch()

    @property
    def held_bytes(self) -> int:
        """What its reader has not taken."""
        return len(self._held)

    # From the socket

    def watch(self) -> None:
        """Wait until the socket has something."""
        if not self._watching and not self.closed:
            self._watching = True
            self._loop.add_reader(self._fd, self._on_readable)

    def _on_readable(self) -> None:
        self._owner.note_ready(self)
        if self.queued or self.finished or not self._connection.sendable_bytes(self.stream_id):
            self._unwatch()  # its turn, or its window, comes later

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._fd)

    def fetch(self) -> tuple[bytes, bool]:
        """What is to be said now, and whether there may be more at once. Nothing: there is none, or no window."""
        limit = self._connection.sendable_bytes(self.stream_id)
        if self.closed or self.finished or not limit:
            return b"", False
        try:
            data = self.sock.recv(limit)
        except (BlockingIOError, InterruptedError):
            self.watch()
            return b"", False
        except OSError:
            self.give_up()
            return b"", False
        if not data:
            self._unwatch()
            self._finish()
        elif len(data) < limit:
            self.watch()
        return data, len(data) == limit

    def _finish(self) -> None:
        """The socket's owner says no more. One that does not listen either is not waited for endlessly."""
        self.finished = True
        self._connection.finish(self.stream_id)
        if not self._end_if_over() and has_hung_up(self.sock):
            self._linger = self._loop.call_later(LINGER_S, self.give_up)

    # To the socket

    def deliver(self, data: bytes) -> None:
        """Hand on a piece that has come."""
        if self._held:
            self._held += data
            self._owner.note_held(len(data))
            return
        sent = self._send(data)
        if sent < len(data) and not self.closed:
            self._held += data[sent:]
            self._owner.note_held(len(data) - sent)
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.give_up()
            return 0
        self._connection.acknowledge(self.stream_id, sent)
        return sent

    def _on_writable(self) -> None:
        sent = self._send(self._held)
        if self.closed:
            return
        del self._held[:sent]
        self._owner.note_held(-sent)
        if not self._held:
            self._stop_writing()
            if self._peer_ended:
                self._tell_end()
        self._owner.flush()

    def end(self) -> None:
        """The peer sends no more."""
        self._peer_ended = True
        if not self._held:
            self._tell_end()

    def _tell_end(self) -> None:
        if self._end_if_over():
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.give_up()  # its owner has closed it, and so reads nothing

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    # The end

    def _end_if_over(self) -> bool:
        if self.finished and self._peer_ended and not self._held:
            self.close()
            return True
        return False

    def give_up(self) -> None:
        """End it on both sides."""
        if not self.closed:
            self._connection.reset(self.stream_id)
            self.close()
            self._owner.flush()

    def close(self) -> None:
        """Close the socket: the stream is over."""
        if self.closed:
            return
        self.closed = True
        if self._linger is not None:
            self._linger.cancel()
        self._unwatch()
        self._stop_writing()
        self.sock.close()
        self._owner.note_held(-len(self._held))
        self._held.clear()
        self._owner.forget(self)
