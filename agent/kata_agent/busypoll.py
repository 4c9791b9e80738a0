"""The event loop's selector: after an event it looks again for some microseconds before it sleeps.

Owns: when the loop sleeps. Must not know: what the events are. Follows: decision 0010; what the kernel does for the
same reason is in its "halt polling" document.

A caller that sends its next request as soon as it has the answer finds the agent awake: waking a sleeping
virtual CPU costs more than the whole call. An idle agent sleeps at once, with one CPU it never polls.
"""

from __future__ import annotations

import os
import selectors
from time import perf_counter_ns

SPIN_NS = 30_000


class BusyPollSelector(selectors.EpollSelector):
    """`EpollSelector` which polls for `spin_ns` after each event, where another CPU can go on meanwhile."""

    def __init__(self, spin_ns: int = SPIN_NS) -> None:
        super().__init__()
        self._spin_ns = spin_ns if len(os.sched_getaffinity(0)) > 1 else 0
        self._awake = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As `EpollSelector.select`; `timeout` in seconds."""
        select = super().select
        if self._awake and (timeout is None or timeout * 1e9 > self._spin_ns):
            end = perf_counter_ns() + self._spin_ns
            while perf_counter_ns() < end:
                events = select(0)
                if events:
                    return events
        events = select(timeout)
        self._awake = bool(events) and self._spin_ns > 0
        return events
