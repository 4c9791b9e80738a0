"""The agent's side of PID 1's control channel, on the event loop.

Owns: reading the channel, the descriptors that PID 1 handed back until someone takes them, and what happens when
PID 1 is gone. Must not know: what a stored descriptor is for. Follows: docs/architecture.md, seam 2.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kata_agent.errors import TimedOut
from kata_agent.life import Life
from kata_init import control
from kata_init.exits import Exit

if TYPE_CHECKING:
    from kata_agent.log import Log
    from kata_agent.processes.exits import ExitBook

SYNC_DEADLINE_S = 30.0
LISTEN = "listen"


class Supervisor:
    """Feeds exits to the book and keeps what PID 1 sent at start in `stored`."""

    def __init__(
        self, channel: control.AgentChannel, exits: ExitBook, log: Log, on_gone: Callable[[], None]
    ) -> None:
        self.stored: dict[str, tuple[int, ...]] = {}
        self.life = Life()
        self.on_late: Callable[[float], None] | None = None
        """Hears after how many seconds the loop turned again, when PID 1 had called it silent."""
        self.on_lost: Callable[[], None] | None = None
        """Hears that PID 1 had to drop exits; `life` says how many."""
        self._channel = channel
        self._exits = exits
        self._log = log
        self._on_gone = on_gone
        self._synced = asyncio.Event()

    def start(self) -> None:
        """Begin to read; the loop that runs now is the one."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)

    def close(self) -> None:
        """Stop reading and close the channel and every descriptor that nobody took."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        for fds in self.stored.values():
            for fd in fds:
                os.close(fd)
        self.stored.clear()

    async def wait_synced(self) -> None:
        """Wait until PID 1 has sent everything it kept. Raises `TimedOut`."""
        try:
            async with asyncio.timeout(SYNC_DEADLINE_S):
                await self._synced.wait()
        except TimeoutError:
            raise TimedOut(
                f"PID 1 did not hand over its descriptors within {SYNC_DEADLINE_S:.0f} s"
            ) from None

    def take(self, name: str) -> tuple[int, ...]:
        """The descriptors stored under `name`, now the caller's; none when there are none."""
        return self.stored.pop(name, ())

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Let PID 1 keep copies of `fds` under `name` until `discard`."""
        self._channel.store(name, fds)

    def discard(self, name: str) -> None:
        """Let PID 1 close what it keeps under `name`."""
        self._channel.discard(name)

    def ready(self) -> None:
        """The API answers."""
        self._channel.ready()

    def upgrade(self, code: str, drain_ms: int, ready_ms: int) -> None:
        """The next agent runs the code of this folder; this one ends."""
        self._channel.upgrade(code, drain_ms, ready_ms)

    def unfit(self, reason: str) -> None:
        """This agent cannot go on with what it found. PID 1 kills it, and tells what follows."""
        self._log.error("supervisor", "cannot go on with what is here", reason=reason)
        self._channel.unfit(reason)

    def shutdown(self) -> None:
        """Ask for the power-off. PID 1 kills what is left, this process too."""
        self._channel.shutdown()

    def _read(self) -> None:
        for packet in self._channel.receive():
            self._handle(packet)
        if self._channel.closed:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._log.error("supervisor", "PID 1 closed the control channel: the agent ends")
            self._on_gone()

    def _handle(self, packet: object) -> None:
        match packet:
            case Exit():
                self._exits.record(packet)
            case control.Stored(name, fds):
                self.stored[name] = fds
            case control.Synced():
                self._synced.set()
            case control.Ping(time_ns, limit_ns):
                self._answer(time.monotonic_ns() - time_ns, limit_ns)
            case control.Boot(steps):
                self.life.steps = steps
            case control.Life():
                self._begin_life(packet)
            case control.Lost(exits):
                self.life.lost_exits = exits
                if self.on_lost is not None:
                    self.on_lost()
            case control.Refused(name, reason):
                self._log.error("supervisor", "PID 1 did not keep descriptors", entry=name, reason=reason)
            case control.Malformed(reason):
                self._log.error("supervisor", "a packet of PID 1 was not understood", reason=reason)
            case _:
                pass

    def _begin_life(self, packet: control.Life) -> None:
        life = self.life
        life.number, life.last_end, life.code, life.outcome, life.control_version = packet

    def _answer(self, lag_ns: int, limit_ns: int) -> None:
        self.life.note_lag(lag_ns // 1000)
        self._channel.alive(lag_ns // 1000)
        if lag_ns > limit_ns and self.on_late is not None:
            self.on_late(lag_ns / 1e9)
