"""The agent's exit book: who ended how, recorded once, told to any number of waiters.

Fed from the reaper (stand-alone) or from PID 1's control channel (supervised). A process is `(pid, start_time)`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_init.exits import Exit


class ExitBook:
    """Exits by process; `record` is called by whoever reaps, `wait_exit` by whoever asks."""

    def __init__(self, *, forget: Callable[[int, int], None] | None = None, limit: int = 4096) -> None:
        """`forget(pid, start_time)` tells PID 1's ledger that nobody will ask for this exit again."""

    def record(self, entry: Exit) -> None:
        """Note an exit, wake its waiters; the second record of one process changes nothing."""

    async def wait_exit(self, pid: int, start_time: int) -> Exit:
        """Wait for this process's exit, which may have been recorded before."""
        raise NotImplementedError
