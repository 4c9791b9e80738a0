"""How long calls took and how they failed, by method: figures that every call adds to.

Owns: the counts. Must not know: what is done with them. Part of the idle agent, because a call that was not counted
cannot be counted later; some 0.5 us a call. Bounded by the number of methods there are.
"""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_NS = (
    *(100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 50_000_000, 100_000_000, 500_000_000),
    *(1_000_000_000, 5_000_000_000, 30_000_000_000),
)
"""Upper bounds of the buckets in nanoseconds; one more bucket holds what took longer."""


class Durations:
    """`buckets[method]` has a count for each bucket, and the sum in nanoseconds at its end."""

    __slots__ = ("buckets", "failures")

    def __init__(self) -> None:
        self.buckets: dict[str, list[int]] = {}
        self.failures: dict[tuple[str, str], int] = {}

    def note(self, method: str, duration_ns: int) -> None:
        """A call has ended."""
        row = self.buckets.get(method)
        if row is None:
            row = self.buckets[method] = [0] * (len(BOUNDS_NS) + 2)
        row[bisect_left(BOUNDS_NS, duration_ns)] += 1
        row[-1] += duration_ns

    def note_failure(self, method: str, code: str) -> None:
        """A call was answered with this status."""
        key = (method, code)
        self.failures[key] = self.failures.get(key, 0) + 1
