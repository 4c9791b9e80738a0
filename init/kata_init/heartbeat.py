"""Whether the agent's event loop turns: when to ask it, when to say that it is silent. Pure: the clock is the caller's.

Owns: the two times. Must not know: channels, processes. One question is under way at most, so an agent that does not
read costs nothing, and an idle guest wakes up once in `interval_ns`.
"""

from __future__ import annotations


class Heartbeat:
    """Times in nanoseconds of the monotonic clock; an interval of 0 means that nothing is ever asked."""

    __slots__ = ("_asked", "_due", "_interval_ns", "_told", "limit_ns")

    def __init__(self, interval_ns: int, limit_ns: int) -> None:
        self._interval_ns = interval_ns
        self.limit_ns = limit_ns
        self.stop()

    def stop(self) -> None:
        """There is no agent that answers."""
        self._due: int | None = None
        self._asked: int | None = None
        self._told = False

    def start(self, now: int) -> None:
        """The agent answers from now on."""
        self.stop()
        if self._interval_ns:
            self._due = now + self._interval_ns

    def next_ns(self) -> int | None:
        """When to look again."""
        if self._asked is not None:
            return None if self._told else self._asked + self.limit_ns
        return self._due

    def is_due(self, now: int) -> bool:
        """Whether to ask now; then it counts as asked."""
        if self._due is None or self._asked is not None or now < self._due:
            return False
        self._asked = now
        return True

    def is_silent(self, now: int) -> bool:
        """Whether the agent has not answered for too long; said once for each question."""
        if self._asked is None or self._told or now < self._asked + self.limit_ns:
            return False
        self._told = True
        return True

    def answer(self, now: int) -> int | None:
        """The agent has answered. How long that took, when it had been called silent."""
        late = now - self._asked if self._asked is not None and self._told else None
        self._asked = None
        self._told = False
        self._due = now + self._interval_ns if self._interval_ns else None
        return late
