"""Connections of their own for standard streams: accepted, filed under the peer's port, taken by who names it.

Owns the listening socket and the connections that nobody has taken yet: at most `LIMIT` of them (the oldest goes)
and each for `UNCLAIMED_S`. On vsock only the host may connect: a container's process must not pose as it. On a unix
socket, which stands in for vsock where there is no VM, the port is the number behind the last colon of the
abstract name that the peer has bound (`@anything:5001`). Must not know: containers. Follows: Kata's agent,
"fd passthrough"; decision 0040.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING, Any, Protocol

from kata_agent.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_agent.log import Log

LIMIT = 256
ACCEPTS_PER_TURN = 64
UNCLAIMED_S = 60.0
TAKE_S = 2.0
"""A host names a port after its connection was accepted; this is for a listener that has not come to it yet."""
PREFIX = "passed/"
LISTENER = "listen.passed"
_CID_HOST = 2


class Keeper(Protocol):
    """The descriptor store of PID 1."""

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies."""

    def discard(self, name: str) -> None:
        """Close them."""


class Waiting:
    """A connection that nobody has asked for yet."""

    __slots__ = ("connection", "expiry")

    def __init__(self, connection: socket.socket, expiry: asyncio.TimerHandle) -> None:
        self.connection = connection
        self.expiry = expiry


class PassedConnections:
    """Needs the running loop; `close` ends it."""

    def __init__(
        self, listener: socket.socket, keeper: Keeper, log: Log, stored: dict[str, tuple[int, ...]]
    ) -> None:
        """Owns the listener. `stored` are the connections of an agent before this one, under `PREFIX`."""
        self._listener = listener
        self._keeper = keeper
        self._log = log
        self._waiting: dict[int, Waiting] = {}
        self._came = asyncio.Event()
        """Something to look at: a connection, or the first bytes of one."""
        self._first_bytes = select.epoll()
        for name in [name for name in stored if name.startswith(PREFIX)]:
            (fd,) = stored.pop(name)
            self._file(int(name.removeprefix(PREFIX)), socket.socket(fileno=fd))
        listener.setblocking(False)  # noqa: FBT003 - the library's signature
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept)
        loop.add_reader(self._first_bytes, self._note_first_bytes)

    def close(self) -> None:
        """Stop listening and close what nobody took."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._listener.close()
        for port in list(self._waiting):
            self._drop(port)
        loop.remove_reader(self._first_bytes)
        self._first_bytes.close()

    async def take(self, ports: tuple[int, ...]) -> list[socket.socket | None]:
        """The connections of these ports, the caller's from now on; None for port 0 and for one that does not come."""
        taken: list[socket.socket | None] = []
        try:
            async with asyncio.timeout(TAKE_S):
                while any(port and port not in self._waiting for port in ports):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            pass  # each that is missing is told below
        for port in ports:
            waiting = self._waiting.pop(port, None) if port else None
            if port and waiting is None:
                self._log.warning("streams", "no connection from this port, the stream is absent", port=port)
            taken.append(None if waiting is None else self._release(port, waiting))
        return taken

    async def find_port(self, token: bytes) -> int:
        """The port of the connection that begins with this token, which is taken off. NotFound: none does."""
        try:
            async with asyncio.timeout(TAKE_S):
                while not (port := self._find(token)):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            port = self._find(token)  # the loop may have been late, and the connection not
        if not port:
            raise NotFound(f"no connection that waits begins with this token of {len(token)} bytes")
        self._waiting[port].connection.recv(len(token))
        return port

    def _find(self, token: bytes) -> int:
        return next(
            (port for port, waiting in self._waiting.items() if _begins_with(waiting.connection, token)), 0
        )

    def _note_first_bytes(self) -> None:
        self._first_bytes.poll(0)  # each is told once
        self._came.set()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # the peer is gone again, or there is no descriptor left; the listener is level-triggered
                self._log.warning("streams", "a connection was not accepted", error=str(error))
                return
            port = port_of(peer)
            if not port:
                self._log.warning("streams", "a connection from nowhere was refused", peer=repr(peer))
                connection.close()
                continue
            connection.setblocking(False)  # noqa: FBT003
            self._keeper.store(f"{PREFIX}{port}", (connection.fileno(),))
            self._file(port, connection)

    def _file(self, port: int, connection: socket.socket) -> None:
        if port in self._waiting:  # its peer has closed it, else the port could not be used again
            self._release(port, self._waiting.pop(port)).close()
        elif len(self._waiting) >= LIMIT:
            oldest = next(iter(self._waiting))
            self._log.warning("streams", "too many connections wait, the oldest is closed", port=oldest)
            self._drop(oldest)
        expiry = asyncio.get_running_loop().call_later(UNCLAIMED_S, self._expire, port)
        self._waiting[port] = Waiting(connection, expiry)
        self._first_bytes.register(connection, select.EPOLLIN | select.EPOLLET)
        self._came.set()

    def _expire(self, port: int) -> None:
        self._log.warning("streams", "nobody asked for this connection, it is closed", port=port)
        self._drop(port)

    def _drop(self, port: int) -> None:
        self._release(port, self._waiting.pop(port)).close()
        self._keeper.discard(f"{PREFIX}{port}")

    def _release(self, port: int, waiting: Waiting) -> socket.socket:
        waiting.expiry.cancel()
        self._first_bytes.unregister(waiting.connection)  # PID 1 has a copy: closing would not end it
        return waiting.connection

    def forget(self, ports: tuple[int, ...]) -> None:
        """What was taken is kept elsewhere now, or closed."""
        for port in ports:
            if port and port not in self._waiting:
                self._keeper.discard(f"{PREFIX}{port}")


def _begins_with(connection: socket.socket, token: bytes) -> bool:
    try:
        return connection.recv(len(token), socket.MSG_PEEK) == token
    except OSError:
        return False  # silent so far, or broken: who asks for it learns that


def port_of(peer: Any) -> int:
    """The port that a peer's address names; 0 for none."""
    if isinstance(peer, tuple):
        cid, port = peer
        return port if cid == _CID_HOST else 0
    name = peer if isinstance(peer, bytes) else b""
    digits = name.rpartition(b":")[2] if name.startswith(b"\0") else b""
    return int(digits) if digits.isdigit() else 0
