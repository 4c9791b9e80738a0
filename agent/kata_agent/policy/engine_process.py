"""The engine's process as a child of the agent: started by its one way to start programs, reaped by its one reaper."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from kata_agent.processes.exits import exactly
from kata_agent.processes.spawn import spawn

if TYPE_CHECKING:
    import socket

    from kata_agent.processes.exits import ExitBook
    from kata_init.exits import Exit

END_DEADLINE_S = 10.0
STANDARD_ERROR = 2
# The agent's own score protects it. The engine is the better victim: it is started again, and refuses until then.
OOM_SCORE = 500


class EngineProcess:
    """See `kata_policy.engine.Process`."""

    def __init__(self, exits: ExitBook, argv: list[str], channel: socket.socket) -> None:
        child = spawn(argv, (channel.fileno(), channel.fileno(), STANDARD_ERROR))
        self._pid = child.pid
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        exits.watch(child.pid, exactly(child.start_time), self._ended)
        try:
            with open(f"/proc/{child.pid}/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(OOM_SCORE))
        except (FileNotFoundError, ProcessLookupError):
            pass  # ended at once; the first question will tell

    async def stop(self) -> str:
        """See `kata_policy.engine.Process`."""
        if not self._end.done():
            os.kill(self._pid, signal.SIGKILL)  # not reaped yet: its exit would have been recorded here
        async with asyncio.timeout(END_DEADLINE_S):
            end = await asyncio.shield(self._end)
        return f"signal {end.signal}" if end.signal is not None else f"exit status {end.code}"

    def _ended(self, entry: Exit) -> None:
        if not self._end.done():
            self._end.set_result(entry)
