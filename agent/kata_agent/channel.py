"""The agent's serial channel: the port that the settings name, opened when it is there, and served as connections.

Owns: the port's descriptor, which PID 1 keeps for the next agent, and the streams over it. Must not know: what is
served. Imported only where a channel is named (decision 0146).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from kata_linux import virtioports
from kata_linux.uevent import UeventSocket
from kata_protocols.aio.mux import Mux

if TYPE_CHECKING:
    import socket

    from kata_agent.log import Log
    from kata_agent.parts import Host

STORED = "channel"
SETTLE_S = 1.0
PEER = "serial"


class Channel:
    """One per agent. `run` serves until it is cancelled; `settle` is for an end in order."""

    def __init__(
        self,
        name: str,
        serve: Callable[[socket.socket, str], None],
        *,
        host: Host,
        stored: dict[str, tuple[int, ...]],
        log: Log,
    ) -> None:
        self._name = name
        self._serve = serve
        self._host = host
        self._log = log
        self._mux: Mux | None = None
        self._fd = -1
        for fd in stored.pop(STORED, ()):
            self._begin(fd)
        self._look()

    async def run(self) -> None:
        """Serve the port while it is there, and whenever it comes: the kernel tells."""
        changed = asyncio.Event()
        events = UeventSocket()

        def hear() -> None:
            happened, lost = events.read()
            if lost or any(event.subsystem == virtioports.SUBSYSTEM for event in happened):
                changed.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(events.fileno(), hear)
        try:
            while True:
                self._look()
                await changed.wait()
                changed.clear()
        finally:
            loop.remove_reader(events.fileno())
            events.close()

    async def settle(self) -> None:
        """Let out what has been answered, for a moment."""
        if self._mux is None:
            return
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._mux.settle()
        except TimeoutError:
            self._log.warning("channel", "the host does not take what was answered last", port=self._name)

    def _look(self) -> None:
        """Give up a port that is gone, and begin with one that has come."""
        mux = self._mux
        if mux is not None and (mux.closed or virtioports.is_gone(self._fd)):
            mux.close("the port is gone")
            self._host.discard(STORED)
            self._mux = None
        if self._mux is None and (fd := self._open()) >= 0:
            self._begin(fd)

    def _begin(self, fd: int) -> None:
        self._host.store(STORED, (fd,))
        self._fd = fd
        self._mux = Mux(fd, client=False, on_stream=self._accept, on_state=self._tell)

    def _accept(self, connection: socket.socket) -> None:
        self._serve(connection, PEER)

    def _tell(self, state: str) -> None:
        usual = state.startswith(("joined", "parted"))  # each host that comes and goes
        (self._log.debug if usual else self._log.warning)("channel", state, port=self._name)

    def _open(self) -> int:
        """The descriptor, -1 without the port. One that cannot be opened is told, and waits for the next event."""
        path = self._name if self._name.startswith("/") else virtioports.find_port(self._name)
        if path is None:
            return -1
        try:
            fd = virtioports.open_port(path)
            if os.isatty(fd):
                import tty

                tty.setraw(fd)
        except OSError as error:
            self._log.error("channel", "the port cannot be opened", port=self._name, reason=str(error))
            return -1
        return fd
