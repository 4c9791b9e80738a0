"""A bounded stock of machines that are restored and stand still: one is handed out at once, and another made behind
it.

Owns: how many there are, that they are made one at a time, who gets the next one, what happens when one dies or cannot
be made. Must not know: what a member is, or who asks. Bounds: `size` members; `MAX_WAITING` who wait for one, more are
turned away; `MAX_FAILURES` in a row, after waits that double, then the pool ends with the last reason.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from kata_host.vm.base import VmError

MAX_WAITING = 64
MAX_FAILURES = 5
FIRST_WAIT_S = 0.5


class PoolError(VmError):
    """The pool has none to give, or cannot go on; the text says why."""


class Member(Protocol):
    """A machine that stands still until somebody takes it."""

    async def wait_end(self) -> str:
        """Wait until it has ended by itself; why."""

    async def close(self) -> None:
        """End it."""


M = TypeVar("M", bound=Member)


class Pool(Generic[M]):
    """`make` gives a member or raises `VmError` or OSError; `tell` hears what happens; `wait` waits some seconds."""

    def __init__(
        self,
        size: int,
        make: Callable[[], Awaitable[M]],
        tell: Callable[[str], object],
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.size = size
        self._make = make
        self._tell = tell
        self._wait = wait
        self._members: deque[M] = deque()
        self._asking: deque[asyncio.Future[M]] = deque()
        self._short = asyncio.Event()
        self._watches: dict[M, asyncio.Task[None]] = {}
        self._ended: list[M] = []
        self._why_ended = "the pool does not run"

    @property
    def ready(self) -> int:
        """How many stand still."""
        return len(self._members)

    async def run(self) -> None:
        """Keep the stock until cancelled; then nothing is left of it. Raises `PoolError` when none can be made."""
        self._why_ended = ""
        why = "the pool has ended"
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._short.clear()
                    if len(self._members) >= self.size and not self._asking:
                        await self._short.wait()
                    else:
                        self._add(await self._make_one(), group)
        except BaseExceptionGroup as failed:
            why = str(failed.exceptions[0])
            raise failed.exceptions[0] from None
        finally:
            self._why_ended = why
            await self._close()

    async def take(self) -> M:
        """The member that has stood longest, which is the taker's from now on; waits for one. Raises `PoolError`."""
        if self._why_ended:
            raise PoolError(f"nothing to hand out: {self._why_ended}")
        if self._members:
            member = self._members.popleft()
            self._watches.pop(member).cancel()
            self._short.set()
            return member
        if len(self._asking) >= MAX_WAITING:
            raise PoolError(f"nothing to hand out: {MAX_WAITING} wait already; a larger --size helps")
        future: asyncio.Future[M] = asyncio.get_running_loop().create_future()
        self._asking.append(future)
        self._short.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                await future.result().close()  # given away in the moment in which nobody wanted it any more
            raise
        finally:
            if future in self._asking:
                self._asking.remove(future)

    async def _make_one(self) -> M:
        wait_s = FIRST_WAIT_S
        for failures in range(1, MAX_FAILURES + 1):
            try:
                return await self._make()
            except (VmError, OSError) as error:
                self._tell(f"restore {failures} of {MAX_FAILURES} failed: {error}")
                if failures == MAX_FAILURES:
                    raise PoolError(f"{MAX_FAILURES} restores in a row failed, the last: {error}") from error
            await self._wait(wait_s)
            wait_s *= 2
        raise AssertionError("unreachable")

    def _add(self, member: M, group: asyncio.TaskGroup) -> None:
        while self._asking:
            asked = self._asking.popleft()
            if not asked.done():
                asked.set_result(member)
                return
        self._members.append(member)
        self._watches[member] = group.create_task(self._watch(member))
        self._tell(f"{len(self._members)} of {self.size} ready")

    async def _watch(self, member: M) -> None:
        """Replace one that dies in the stock."""
        why = await member.wait_end()
        self._members.remove(member)
        del self._watches[member]
        self._ended.append(member)
        self._tell(f"one that stood still has ended: {why}")
        self._short.set()
        await member.close()
        self._ended.remove(member)

    async def _close(self) -> None:
        """End all of it, together; who still waits is told."""
        for asked in self._asking:
            if not asked.done():
                asked.set_exception(PoolError(f"nothing to hand out: {self._why_ended}"))
        self._asking.clear()
        self._watches.clear()
        members, self._members = [*self._members, *self._ended], deque()
        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(member.close())
