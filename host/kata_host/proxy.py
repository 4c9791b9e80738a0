"""One serial channel for many clients: what connects to a unix socket gets a stream of its own to the agent.

Owns: the channel, the listening socket, and through them every client's connection. Must not know: whose channel it
is, nor what is said. A client that comes while the guest does not answer waits. Bounds: the channel's streams
(`kata_protocols.aio.mux`); a client too many is closed at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from kata_protocols.aio.mux import Mux, ignore_state
from kata_protocols.aio.serial import open_channel

ACCEPTS_PER_TURN = 64
ACCEPT_PAUSE_S = 0.1
_PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.ECONNABORTED})


class Proxy:
    """Serves inside a running loop until `close`, or until the channel ends."""

    def __init__(
        self, channel: str, listener: socket.socket, *, on_state: Callable[[str], None] = ignore_state
    ) -> None:
        """Opens the channel (a VMM's socket, a device); the listener is the caller's. OSError names the channel."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        try:
            fd = open_channel(channel)
        except OSError as error:
            raise OSError(error.errno, f"channel {channel}: {error.strerror}") from error
        self._mux = Mux(fd, client=True, on_state=on_state)
        listener.settimeout(0)
        self._accepting = False
        self._accept_again()

    async def wait_ended(self) -> str:
        """Wait until the channel has ended; why."""
        return await self._mux.wait_ended()

    def close(self) -> None:
        """Take no more clients and end what they have."""
        self._stop_accepting()
        self._mux.close()

    def _accept_again(self) -> None:
        if not self._mux.closed and not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener, self._accept)

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in _PASSING:  # no descriptor, no memory: the client waits in the backlog
                    self._stop_accepting()
                    self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
                return
            self._mux.attach(client)


def listen_unix(path: str, backlog: int = 128) -> socket.socket:
    """A listening socket that the owner of its folder alone may reach; one that nobody listens on is replaced."""
    from kata_protocols.aio.address import UnixAddress
    from kata_protocols.aio.listen import open_listener

    before = os.umask(0o177)
    try:
        return open_listener(UnixAddress(path), backlog=backlog)
    finally:
        os.umask(before)
