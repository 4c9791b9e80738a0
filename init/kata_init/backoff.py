"""When to start the agent again. Pure: the clock is the caller's.

Owns: the delays and the number of attempts. The first restart is immediate; `ready` forgives everything before it.
"""

from __future__ import annotations

ATTEMPTS = 10
_FIRST_DELAY_NS = 50_000_000
_LONGEST_DELAY_NS = 1_000_000_000


class Backoff:
    """Counts starts that did not become ready."""

    __slots__ = ("failures",)

    def __init__(self) -> None:
        self.failures = 0

    def forgive(self) -> None:
        """The agent was ready: whatever comes is a new story."""
        self.failures = 0

    def next_delay_ns(self) -> int | None:
        """How long to wait before the next start, None when it was tried often enough."""
        self.failures += 1
        if self.failures >= ATTEMPTS:
            return None
        if self.failures == 1:
            return 0
        return min(_FIRST_DELAY_NS << (self.failures - 2), _LONGEST_DELAY_NS)
