"""One serial channel for many clients: what connects to a unix socket gets a stream of its own to the agent.

Owns: the channel's descriptor, and through it every client's connection. Must not know: whose channel it is, nor what
is said. A client that comes while the guest does not answer waits. Bounds: the channel's streams
(`kata_protocols.aio.mux`), a client too many is closed at once; clients of no channel wait in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from kata_host.vm.watch import IN_CREATE, IN_MOVED_TO, open_watch, wait_readable
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.dial import dial
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.mux import Mux, ignore_state
from kata_protocols.aio.serial import open_channel

ACCEPTS_PER_TURN = 64
ACCEPT_PAUSE_S = 0.1
_PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.ECONNABORTED})
# Between the making of a socket's file and its listening lies nothing that could be watched for.
_LISTENS_WITHIN_S = 1.0


class Proxy:
    """Serves inside a running loop until `close`, or until the channel ends."""

    def __init__(
        self, channel: int, listener: socket.socket, *, on_state: Callable[[str], None] = ignore_state
    ) -> None:
        """Takes over the channel's descriptor; the listener stays the caller's."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._mux = Mux(channel, client=True, on_state=on_state)
        listener.settimeout(0)
        self._accepting = False
        self._accept_again()

    async def wait_ended(self) -> str:
        """Wait until the channel has ended; why. Clients that come from now on wait for another proxy."""
        reason = await self._mux.wait_ended()
        self._stop_accepting()
        return reason

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
            if self._mux.closed:
                self._stop_accepting()
                return
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in _PASSING:  # no descriptor, no memory: the client waits in the backlog
                    self._stop_accepting()
                    self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
                return
            self._mux.attach(client)


async def serve_always(
    channel: str, listener: socket.socket, *, tell: Callable[[str], None] = ignore_state
) -> None:
    """Serve a channel for ever: whenever it has ended, from when it is there again. OSError: it can never be opened."""
    while True:
        proxy = Proxy(await reach(channel, tell), listener, on_state=tell)
        try:
            await proxy.wait_ended()
        finally:
            proxy.close()


async def reach(path: str, tell: Callable[[str], None] = ignore_state) -> int:
    """A descriptor of what is at this path, a socket or a device, as soon as there is somebody."""
    with open_watch(Path(path).parent, IN_CREATE | IN_MOVED_TO) as watch:  # watch first, look second
        while True:
            try:
                return await _open(path)
            except (FileNotFoundError, TimeoutError) as error:
                tell(f"waits for {path}: {error.strerror or error}")
            await wait_readable(watch)
            os.read(watch, 65536)


async def _open(path: str) -> int:
    try:
        return open_channel(path)
    except ConnectionRefusedError:
        return (await dial(UnixAddress(path), timeout_s=_LISTENS_WITHIN_S)).detach()
    except BlockingIOError as error:
        raise OSError(
            error.errno, f"{path}: another program has the channel, and more wait for it"
        ) from error


def listen_unix(path: str, backlog: int = 128) -> socket.socket:
    """A listening socket that its owner alone may connect to; a file that nobody listens on is replaced."""
    before = os.umask(0o177)
    try:
        return open_listener(UnixAddress(path), backlog=backlog)
    finally:
        os.umask(before)
