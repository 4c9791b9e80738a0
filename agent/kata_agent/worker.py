"""Blocking kernel calls off the event loop: one short-lived thread a call, a bounded number at a time.

Owns: the limit and what cancellation means for a call that cannot be interrupted. Must not know: what is
called. A thread pool was rejected: it costs an import and keeps its threads' memory for the life of the guest.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar, cast

from kata_agent.errors import TimedOut

Result = TypeVar("Result")


class Worker:
    """Runs functions in threads, at most `limit` at once; more callers wait their turn."""

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)

    async def run(self, function: Callable[[], Result]) -> Result:
        """The result of `function()`.

        A cancellation before the thread starts leaves nothing behind. Later the call runs to its end, because
        the kernel cannot be asked to forget half a mount; its result is returned, so that the caller can hand
        it on to whoever frees it, and the cancellation arrives at the caller's next await.
        """
        async with self._slots:
            return await _run_in_thread(function)


class Doubtful:
    """Runs functions that may never return, because they ask a file server that may be gone.

    Each has a thread and `deadline_s`. Afterwards its caller goes on without it; the thread stays until the kernel lets
    it go, and counts: with `limit` of them stuck, further calls are refused at once.
    """

    def __init__(self, limit: int, deadline_s: float) -> None:
        self._limit = limit
        self._deadline_s = deadline_s
        self._running = 0

    async def run(self, what: str, function: Callable[[], Result]) -> Result:
        """The result of `function()`. Raises `TimedOut` with `what` was tried."""
        if self._running >= self._limit:
            raise TimedOut(f"{what}: {self._running} calls like it have not come back yet")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def end(result: Result | None, error: BaseException | None) -> None:
            self._running -= 1
            if done.done():
                return  # nobody waits any more
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(cast("Result", result))

        def body() -> None:
            result, failure = None, None
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(end, result, failure)

        self._running += 1
        threading.Thread(target=body, name="doubtful-call", daemon=True).start()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await done
        except TimeoutError:
            if done.done() and not done.cancelled():
                return done.result()  # a TimeoutError of the function itself
            raise TimedOut(f"{what}: no answer within {self._deadline_s:g} s") from None


async def _run_in_thread(function: Callable[[], Result]) -> Result:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def body() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=body, name="kernel-call", daemon=True).start()
    cancelled = False
    while not done.done():
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            cancelled = True
        except BaseException:  # noqa: BLE001, S110 - `done.result()` below raises it
            pass
    if cancelled:
        _cancel_again()
    return done.result()


def _cancel_again() -> None:
    """Deliver a swallowed cancellation at the task's next await, keeping its count as it is."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()
