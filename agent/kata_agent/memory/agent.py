"""The memory agent's two loops and their settings while the guest runs.

Owns: the tasks, when rounds are, what they tell. Must not know: the wire, how a round works. Off by default, and then
not even imported. Follows: Kata's mem-agent; a kernel that lacks something leaves it off with a reason in the log,
where Kata's agent ends the guest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kata_agent.errors import AgentError, WrongState, describe
from kata_agent.memory.compact import SKIPPED_PRESSURE, SKIPPED_SMALL, CompactRounds
from kata_agent.memory.memcg import MemcgRounds
from kata_agent.memory.observe import Kernel
from kata_agent.memory.settings import CompactSettings, MemcgSettings, change, from_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kata_agent.config import Config
    from kata_agent.log import Log
    from kata_agent.processes.exits import ExitBook
    from kata_agent.worker import Worker

RETRY_S = 300.0
"""After a round that failed."""
DISABLED = "mem-agent is disabled"


class MemoryAgent:
    """Runs rounds from `start` to `close`. What is changed before the first counts in it."""

    def __init__(
        self,
        config: Config,
        *,
        worker: Worker,
        exits: ExitBook,
        log: Log,
        kernel: Kernel | None = None,
    ) -> None:
        self._config = config
        self._memcg = MemcgSettings()
        self._compact = CompactSettings()
        self._worker = worker
        self._log = log
        self._kernel = kernel or Kernel()
        self._memcg_rounds = MemcgRounds(self._kernel, worker)
        self._compact_rounds = CompactRounds(self._kernel, worker, exits)
        self._memcg_changed = asyncio.Event()
        self._compact_changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reason = ""

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin, in `group`; whether the kernel has what is needed is found out there."""
        try:
            self._memcg, self._compact = from_config(self._config)
        except AgentError as error:
            self._stay_off(error)
            return
        self._tasks.append(group.create_task(self._run(group)))

    def close(self) -> None:
        """No more rounds; one that runs ends at its next step."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._reason = "the agent ends"

    def set_memcg(self, changes: Mapping[str, Any]) -> None:
        """Change what giving back may do. Raises `WrongState` when there is no memory agent, `InvalidRequest`."""
        self._check_enabled()
        self._memcg = change(self._memcg, changes)
        if changes.keys() & {"disabled", "period_secs"}:
            self._memcg_changed.set()

    def set_compact(self, changes: Mapping[str, Any]) -> None:
        """Change what compaction may do. Raises as `set_memcg`."""
        self._check_enabled()
        self._compact = change(self._compact, changes)
        if changes.keys() & {"disabled", "period_secs"}:
            self._compact_changed.set()

    def _check_enabled(self) -> None:
        if self._reason:
            raise WrongState(f"{DISABLED}: {self._reason}")

    async def _run(self, group: asyncio.TaskGroup) -> None:
        try:
            await self._worker.run(self._kernel.prepare)
        except (OSError, ValueError, AgentError) as error:
            self._stay_off(error)
            return
        self._log.info("memory", "the memory agent runs")
        self._tasks.append(
            group.create_task(self._loop("compaction", self._compact_changed, self._compact_once))
        )
        await self._loop("reclaim", self._memcg_changed, self._memcg_once)

    def _stay_off(self, error: Exception) -> None:
        self._reason = describe(error)
        self._log.error("memory", "the memory agent stays off", error=self._reason)

    async def _loop(
        self, what: str, changed: asyncio.Event, once: Callable[[], Awaitable[float | None]]
    ) -> None:
        """A round at once, and again after its period or a change of the settings."""
        while True:
            changed.clear()
            try:
                delay_s = await once()
            except (OSError, ValueError, AgentError) as error:
                self._log.error("memory", f"{what} failed", error=describe(error), again_after_s=RETRY_S)
                delay_s = RETRY_S
            try:
                async with asyncio.timeout(delay_s):
                    await changed.wait()
            except TimeoutError:
                pass  # the period is over

    async def _memcg_once(self) -> float | None:
        settings = self._memcg
        if settings.disabled:
            return None
        done = await self._memcg_rounds.run(settings)
        level = "info" if done.freed_pages else "debug"
        self._log.write(level, "memory", "reclaim round", **done._asdict())
        return settings.period_secs

    async def _compact_once(self) -> float | None:
        settings = self._compact
        if settings.disabled:
            return None
        outcome = await self._compact_rounds.run(settings)
        level = "debug" if outcome in (SKIPPED_PRESSURE, SKIPPED_SMALL) else "info"
        self._log.write(level, "memory", "compaction round", outcome=outcome)
        return settings.period_secs
