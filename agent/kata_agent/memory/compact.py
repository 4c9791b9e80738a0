"""One round of compaction: when memory is fragmented and nobody waits, let the kernel move pages together.

Owns: the process that the kernel works in, and what is remembered between rounds. Must not know: when rounds are. The
write to `compact_memory` returns when all is done and only a kill ends it sooner, so a process of its own makes it. The
kernel itself tells when tasks begin to wait: two pressure triggers with a window of two seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from kata_agent.memory import plan
from kata_agent.processes.spawn import spawn
from kata_linux import psi

if TYPE_CHECKING:
    from kata_agent.memory.observe import Kernel
    from kata_agent.memory.settings import CompactSettings
    from kata_agent.processes.exits import ExitBook
    from kata_agent.worker import Worker
    from kata_init.exits import Exit

CONTROL = "/proc/sys/vm/compact_memory"
WINDOW_US = 2_000_000
KILL_DEADLINE_S = 30.0
_PROGRAM = "import os,sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b'1')"

SKIPPED_PRESSURE = "skipped: tasks wait"
SKIPPED_SMALL = "skipped: not fragmented"
DONE = "done"
STOPPED_PRESSURE = "stopped: tasks began to wait"
STOPPED_TIME = "stopped: its time was over"


class CompactRounds:
    """Keeps how fragmented memory was after the last compaction."""

    def __init__(self, kernel: Kernel, worker: Worker, exits: ExitBook) -> None:
        self._kernel = kernel
        self._worker = worker
        self._exits = exits
        self._after: plan.Fragmentation | None = None
        self._stall: plan.Stall | None = None
        self._skipped = 0

    async def run(self, settings: CompactSettings) -> str:
        """Do one round; gives what came of it. Raises OSError, ValueError, `AgentError`."""
        before, self._stall = self._stall, await self._worker.run(lambda: self._kernel.read_stall("/"))
        if plan.stall_percent(before, self._stall) > settings.period_psi_percent_limit:
            self._skipped += 1
            return SKIPPED_PRESSURE
        now = await self._read(settings)
        if not plan.must_compact(self._after, now, self._skipped, settings):
            self._skipped += 1
            return SKIPPED_SMALL
        outcome = await self._compact(settings)
        self._skipped = 0
        self._after = await self._read(settings)
        return outcome

    async def _read(self, settings: CompactSettings) -> plan.Fragmentation:
        return await self._worker.run(lambda: self._kernel.read_fragmentation(settings.compact_order))

    async def _compact(self, settings: CompactSettings) -> str:
        pressed = asyncio.Event()
        stall_us = max(settings.compact_psi_percent_limit, 1) * WINDOW_US // 100
        loop = asyncio.get_running_loop()
        triggers: list[psi.Trigger] = []
        try:
            for path in self._kernel.pressure_files():
                triggers.append(psi.Trigger(path, "some", stall_us, WINDOW_US))
                loop.add_reader(triggers[-1].fileno(), pressed.set)
            return await self._run(pressed, settings.compact_sec_max)
        finally:
            for trigger in triggers:
                loop.remove_reader(trigger.fileno())
                trigger.close()

    async def _run(self, pressed: asyncio.Event, limit_s: float) -> str:
        """The process, until it ends, tasks wait or the time is over."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            child = spawn([sys.executable, "-I", "-S", "-c", _PROGRAM, CONTROL], (null, null, null))
        finally:
            os.close(null)
        why = STOPPED_TIME

        async def stop_when_pressed(waiting: asyncio.Timeout) -> None:
            nonlocal why
            await pressed.wait()
            why = STOPPED_PRESSURE
            waiting.reschedule(asyncio.get_running_loop().time())

        try:
            async with asyncio.timeout(limit_s) as waiting, asyncio.TaskGroup() as group:
                stopper = group.create_task(stop_when_pressed(waiting))
                entry = await self._exits.wait_exit(child.pid, child.start_time)
                stopper.cancel()
        except BaseException as error:
            await self._exits.end(child, KILL_DEADLINE_S)
            if isinstance(error, TimeoutError):
                return why
            raise
        _check(entry)
        return DONE


def _check(entry: Exit) -> None:
    if entry.code or entry.signal is not None:
        raise OSError(f"write 1 to {CONTROL}: the process ended with {entry.code or entry.signal}")
