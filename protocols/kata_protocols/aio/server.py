"""The server: listening sockets, connections, handler tasks, orderly end.

`serve(router, listeners)` is an async context manager: inside it every connection to the listeners is served,
leaving it ends the service. The listeners stay the caller's (PID 1's, in the guest). The first bytes of a
connection choose ttRPC or, imported then and not before, the gRPC adapter; the same router answers both.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from kata_protocols.aio.connection import ServerConnection
from kata_protocols.aio.reply import PipeReply
from kata_protocols.aio.router import Answer, Call, Endpoint, Handler, Router
from kata_protocols.aio.sniff import is_http2
from kata_protocols.aio.transport import SCRATCH_BYTES, Transport

__all__ = ["Answer", "Call", "Endpoint", "Handler", "PipeReply", "Router", "Server", "serve"]

ACCEPTS_PER_TURN = 64
ACCEPT_PAUSE_S = 0.1
GRACE_S = 10.0

OnError = Callable[[str, BaseException], None]

# accept(2): out of descriptors or memory. The connection stays in the backlog; try again soon.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def report_to_stderr(where: str, error: BaseException) -> None:
    """Write one line about an unexpected error: what `on_error` does unless the caller knows better."""
    sys.stderr.write(f"{where}: {type(error).__name__}: {error}\n")


class ServedConnection(Protocol):
    """What the server needs of a connection, whatever it speaks."""

    @property
    def held_bytes(self) -> int:
        """Received and not yet a whole message; 0 where the protocol's own windows bound it."""

    def begin_shutdown(self, *, silently: bool = False) -> None:
        """Take no more calls; close when those that run have answered.

        `silently`: those that only wait are not answered; to their peers the connection was lost, and they ask again.
        """

    def abort(self) -> None:
        """Close now."""


class Server:
    """What the connections of one service share."""

    def __init__(
        self,
        router: Router,
        listeners: Iterable[socket.socket],
        tasks: asyncio.TaskGroup,
        on_error: OnError,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.router = router
        self.on_error = on_error
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._group = tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners = list(listeners)
        self.reflection: dict[str, Any] | None = None  # the gRPC adapter's, made by its first peer
        self._connections: set[ServedConnection] = set()
        self._held_bytes = 0
        self._ending = False
        self._idle = asyncio.Event()

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a handler's work; the server waits for it at its end, for as long as its grace allows."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._tasks and not self._connections:
            self._idle.set()

    # Listening

    def start(self) -> None:
        """Begin to accept."""
        for listener in self._listeners:
            listener.settimeout(0)
            self.loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self.on_error("accept", error)
                if error.errno in _EXHAUSTED:
                    self.loop.remove_reader(listener)
                    self.loop.call_later(ACCEPT_PAUSE_S, self._resume_accepting, listener)
                return
            self.serve_connection(sock, describe_peer(sock, address))

    def serve_connection(self, sock: socket.socket, peer: str) -> None:
        """Serve a connection that was accepted elsewhere, and take its socket over; `peer` names it in logs."""
        sock.settimeout(0)
        if self._ending:
            sock.close()
            return
        self._connections.add(Greeting(self, sock, peer))

    def _resume_accepting(self, listener: socket.socket) -> None:
        if listener in self._listeners and listener.fileno() >= 0:
            self.loop.add_reader(listener, self._accept, listener)

    # Connections

    def replace(self, old: ServedConnection, new: ServedConnection) -> None:
        """A connection has shown what it speaks."""
        self._connections.discard(old)
        self._connections.add(new)

    def forget(self, connection: ServedConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._note_idle()

    def note_held(self, grown_bytes: int, limit_bytes: int) -> None:
        """Half-sent messages have grown by so much; beyond the limit whoever holds most of them is cut off."""
        self._held_bytes += grown_bytes
        if grown_bytes > 0 and self._held_bytes > limit_bytes:
            largest = max(self._connections, key=lambda connection: connection.held_bytes)
            text = f"{self._held_bytes} bytes of half-sent frames wait, the peer with most of them is cut off"
            self.on_error("receive", OSError(errno.ENOBUFS, text))
            largest.abort()

    # The end

    def begin_shutdown(self, *, silently: bool = False) -> None:
        """Accept no more, take no more calls, end those that only wait; the others go on."""
        self._ending = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self.loop.remove_reader(listener)
        for connection in list(self._connections):
            connection.begin_shutdown(silently=silently)

    async def drain(self, grace_s: float, *, silently: bool = False) -> bool:
        """Take nothing new, and let handlers answer and answers leave for up to `grace_s`; whether all have."""
        self.begin_shutdown(silently=silently)
        self._idle.clear()
        self._note_idle()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def shutdown(self, grace_s: float) -> None:
        """Let handlers answer and answers leave for up to `grace_s`, then cut off."""
        try:
            await self.drain(grace_s)  # what is left then gets no more time
        finally:
            for task in list(self._tasks):
                task.cancel()
            for connection in list(self._connections):
                connection.abort()


class Greeting:
    """A connection whose first bytes have not all come: ttRPC or HTTP/2."""

    held_bytes = 0

    def __init__(self, server: Server, sock: socket.socket, peer: str) -> None:
        self._server = server
        self._peer = peer
        self._first = b""
        self._connection: ServerConnection | None = None
        self._transport = Transport(
            server.loop,
            sock,
            server.scratch,
            on_data=self._on_data,
            on_lost=self._on_lost,
            on_drained=lambda: None,
        )
        self._transport.resume_reading()

    def _on_data(self, data: memoryview) -> None:
        self._first += data
        http2 = is_http2(self._first)
        if http2 is None and data:
            return
        if http2:
            self._begin_grpc()
        elif self._first:
            self._begin_ttrpc(ended=not data)
        else:
            self._transport.abort()

    def _begin_ttrpc(self, *, ended: bool) -> None:
        connection = ServerConnection(self._server, self._transport, self._peer)
        self._server.replace(self, connection)
        self._transport.hand_over(
            on_data=connection.on_data, on_lost=connection.on_lost, on_drained=connection.on_drained
        )
        connection.on_data(self._first)
        if ended:
            connection.on_data(b"")

    def _begin_grpc(self) -> None:
        """Import what serves HTTP/2 and give it the socket."""
        from kata_protocols.grpc.server import GrpcConnection, reflect

        server = self._server
        if server.reflection is None:
            server.reflection = reflect(server.router)
        connection = GrpcConnection(server, server.reflection, self._peer)
        server.replace(self, connection)
        server.start_task(connection.open(self._transport.detach(), self._first))

    def _on_lost(self, _error: OSError | None) -> None:
        self._server.forget(self)

    def begin_shutdown(self, *, silently: bool = False) -> None:
        """Nothing has been asked yet."""
        del silently
        self._transport.abort()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()


def describe_peer(sock: socket.socket, address: Any) -> str:
    """Name the other end for logs: `vsock:CID:PORT`, or `unix` as those clients have no name."""
    if sock.family == socket.AF_VSOCK:
        return f"vsock:{address[0]}:{address[1]}"
    return "unix"


@asynccontextmanager
async def serve(
    router: Router,
    listeners: Iterable[socket.socket],
    *,
    on_error: OnError = report_to_stderr,
    grace_s: float = GRACE_S,
) -> AsyncIterator[Server]:
    """Serve connections to `listeners` while the context is open; leaving it takes at most `grace_s`.

    `on_error(where, error)` hears of handlers' exceptions that are no StatusError, and of accept's errors.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            server = Server(router, listeners, tasks, on_error)
            server.start()
            try:
                yield server
            finally:
                await server.shutdown(grace_s)
    except BaseExceptionGroup as group:
        # Handlers' tasks do not raise: what is in the group is the context's own error.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
