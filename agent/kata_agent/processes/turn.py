"""Turns at a stream: one user at a time, in the order they came, taken without waiting when nobody is there.

`asyncio.Lock` cannot be taken by a plain function, and a read that finds data must not become a task.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """A fair lock. Whoever is given it owns it until `release`; a waiter that is cancelled passes it on."""

    __slots__ = ("_taken", "_waiters")

    def __init__(self) -> None:
        self._taken = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._waiters)

    def try_take(self) -> bool:
        """Take it when nobody has it and nobody waits."""
        if self._taken:
            return False
        self._taken = True
        return True

    async def take(self) -> None:
        """Take it when it is our turn."""
        if self.try_take():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            elif waiter in self._waiters:  # else it was passed over in this turn of the loop
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Hand it to the next waiter."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._taken = False
