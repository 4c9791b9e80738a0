"""The agent's exit book: who ended how, recorded once, told to whoever watches, before or after the fact.

Fed from the reaper of the agent's own children and, supervised, from PID 1's control channel. A process is
`(pid, start_time)`; a watcher that could not learn the start time any more (the process was gone at once) is
served by pid alone. Must not know: containers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata_agent.processes.spawn import Child
    from kata_init.exits import Exit

    Watcher = Callable[[Exit], None]


LIMIT = 1024


class Target(Record):
    """Which exits of a pid are meant: those of processes whose start time lies in this range."""

    earliest: int
    latest: int

    def covers(self, entry: Exit) -> bool:
        """Whether it is one of them; a start time of 0 could not be read by whoever reaped."""
        return entry.start_time == 0 or self.earliest <= entry.start_time <= self.latest


def exactly(start_time: int) -> Target:
    """The process whose start time is known."""
    return Target(start_time, start_time)


def since(start_time: int) -> Target:
    """A process that was gone before its start time could be read, started by one of this start time."""
    return Target(start_time, sys.maxsize)


class ExitBook:
    """Exits by pid. An exit that nobody watches is kept, the newest `limit` of them."""

    def __init__(
        self, *, forget: Callable[[int, int], None] | None = None, limit: int | None = LIMIT
    ) -> None:
        """`forget(pid, start_time)` tells PID 1's ledger that nobody will ask for this exit again.

        With a `limit` of None all are kept, until `bound`: who adopts has not begun to watch yet, and what PID 1
        sends meanwhile has its ledger's bound.
        """
        self._forget = forget
        self._limit = limit
        self._unclaimed: dict[tuple[int, int], Exit] = {}
        self._watchers: dict[int, list[tuple[Target, Watcher]]] = {}

    def record(self, entry: Exit) -> None:
        """Note an exit and tell its watcher. Supervised, the same exit may come twice: the second changes nothing."""
        watchers = self._watchers.get(entry.pid, [])
        for index, (target, watcher) in enumerate(watchers):
            if target.covers(entry):
                del watchers[index]
                if not watchers:
                    del self._watchers[entry.pid]
                watcher(entry)
                return
        self._unclaimed[entry.pid, entry.start_time] = entry
        self._drop_surplus()

    def bound(self, limit: int = LIMIT) -> None:
        """From now on keep the newest `limit` that nobody watches."""
        self._limit = limit
        self._drop_surplus()

    def _drop_surplus(self) -> None:
        while self._limit is not None and len(self._unclaimed) > self._limit:
            self.release(*next(iter(self._unclaimed)))

    def watch(self, pid: int, target: Target, watcher: Watcher) -> None:
        """Call `watcher` once with this process's exit: now, when it was recorded already, or when it comes."""
        for key, entry in self._unclaimed.items():
            if key[0] == pid and target.covers(entry):
                del self._unclaimed[key]
                watcher(entry)
                return
        self._watchers.setdefault(pid, []).append((target, watcher))

    def unwatch(self, pid: int, watcher: Watcher) -> None:
        """Stop watching; a watcher that was served already is fine."""
        left = [item for item in self._watchers.pop(pid, []) if item[1] != watcher]
        if left:
            self._watchers[pid] = left

    async def wait_exit(self, pid: int, start_time: int) -> Exit:
        """Wait for this process's exit, which may have been recorded before. Cancelling leaves no watcher, and an
        exit that came at the same moment is there for who asks next."""
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

        def serve(entry: Exit) -> None:
            if future.done():
                self.record(entry)  # cancelled, and its turn to leave has not come yet
            else:
                future.set_result(entry)

        self.watch(pid, exactly(start_time), serve)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.record(future.result())
            raise
        finally:
            self.unwatch(pid, serve)

    async def end(self, child: Child, within_s: float, number: int = signal.SIGKILL) -> None:
        """Signal a child that nobody waits for, unless it has ended, and wait for its end. Raises TimeoutError."""
        # one that was not reaped yet has its pid still: its exit would have been recorded here
        if not any(
            pid == child.pid and start_time in (0, child.start_time) for pid, start_time in self._unclaimed
        ):
            os.kill(child.pid, number)
        async with asyncio.timeout(within_s):
            await self.wait_exit(*child)

    def release(self, pid: int, start_time: int) -> None:
        """Nobody will ask for this exit again."""
        self._unclaimed.pop((pid, start_time), None)
        if self._forget is not None:
            self._forget(pid, start_time)


def attach_reaper(book: ExitBook, reap: Callable[[], Sequence[Exit]]) -> None:
    """Record every child's exit as SIGCHLD tells of it. `reap` is `kata_init.exits.reap`, called until it
    finds none; needs a running loop."""

    def collect() -> None:
        while ended := reap():
            for entry in ended:
                book.record(entry)

    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, collect)
    collect()
