"""Work that must not be left half done when whoever waits for it is cancelled.

Owns: that the work has ended when the cancellation takes effect. Must not know: what it is. A second
cancellation ends it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that goes on to its end; a cancellation waits for it."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait([task])
                raise
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None


async def run_in_thread(work: Callable[[threading.Event], T]) -> T:
    """Work that blocks. When its caller is cancelled the event is set, and this returns when the work has stopped."""
    stopped = threading.Event()
    working = asyncio.get_running_loop().run_in_executor(None, work, stopped)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([working])
        raise
