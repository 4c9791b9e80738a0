"""Undo: what was done is undone in reverse, when a step fails or the caller goes away.

Owns the order, and that every step is tried, also when the caller is cancelled. Must not know what the steps are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")


class Undo:
    """Inverses of the steps done so far."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[None] | None]]] = []

    def push(self, what: str, action: Callable[[], Awaitable[None] | None]) -> None:
        """Note how to undo the step that is about to be, or was just, done. `what` is for the failure's text."""
        self._steps.append((what, action))

    def keep(self) -> None:
        """All is well: nothing is to be undone any more."""
        self._steps.clear()

    async def unwind(self) -> list[tuple[str, Exception]]:
        """Run every inverse, the last one first; gives those that failed."""
        failed: list[tuple[str, Exception]] = []
        while self._steps:
            what, action = self._steps.pop()
            try:
                pending = action()
                if pending is not None:
                    await pending
            except Exception as error:  # noqa: BLE001 - the other steps must be tried; the caller reports it
                failed.append((what, error))
        return failed


async def finish(group: asyncio.TaskGroup, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do the work to its end as a task of the longer-lived group; a cancelled caller waits for it all the same.

    The work must bound itself. Its failure is the caller's, not the group's.
    """
    task = group.create_task(_outcome(work()))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    result, failure = task.result()
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure
    return cast("T", result)


async def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """A task that fails would end its group."""
    try:
        return await work, None
    except Exception as error:  # noqa: BLE001 - handed to the caller
        return None, error
