"""Which code the next agent runs, and what becomes of an upgrade. Pure: the clock is the caller's.

Owns: the code (a folder that goes before PID 1's own path; empty: PID 1's own), what to go back to, and the deadlines
of an upgrade. Must not know: processes, channels, what is in the code. Follows decision 0042.

An upgrade is asked for by the agent that runs, once it knows that the other code can take over. It ends by itself, or
is overdue; the next agent runs the other code and is on trial until it is ready. One that is not ready in time, or
ends before, is followed by the code before it. Later, an upgraded code that is not ready `PATIENCE` times in a
row is followed by PID 1's own: that one has been ready in this guest.
"""

from __future__ import annotations

PATIENCE = 3

UPGRADED = "upgraded"
FELL_BACK = "fell back"


class Succession:
    """Times in nanoseconds of the monotonic clock."""

    __slots__ = ("_before", "_deadline_ns", "_ready_ns", "_told", "_trial", "_unready", "_wanted", "code")

    def __init__(self) -> None:
        self.code = ""
        self._before = ""
        self._wanted: str | None = None
        self._trial = False
        self._deadline_ns: int | None = None
        self._ready_ns = 0
        self._unready = 0
        self._told = ""

    def plan(self, code: str, drain_ns: int, ready_ns: int, now: int) -> None:
        """The next agent runs `code`: the one that runs ends within `drain_ns`, the next is ready `ready_ns` later."""
        self._wanted = code
        self._ready_ns = ready_ns
        self._deadline_ns = now + drain_ns

    def start(self, now: int) -> str:
        """An agent is started now; gives what it is to be told of an upgrade: `UPGRADED`, `FELL_BACK` or nothing.

        Each is told so until one has been ready: it may die before it has told anybody.
        """
        if self._wanted is not None:
            self._before, self.code, self._wanted = self.code, self._wanted, None
            self._trial, self._unready = True, 0
            self._told = UPGRADED
        self._deadline_ns = now + self._ready_ns if self._trial else None
        return self._told

    def ready(self) -> bool:
        """The agent is ready; whether an upgrade is done with that."""
        done, self._trial = self._trial, False
        self._unready, self._told = 0, ""
        if self._wanted is None:
            self._deadline_ns = None
        return done

    @property
    def is_planned(self) -> bool:
        """Whether the agent that runs is to be followed by other code."""
        return self._wanted is not None

    def end(self, *, hopeless: bool = False) -> str:
        """The agent has ended without being asked to; the code that has failed and is not tried again, if any.

        `hopeless`: it has said itself that it cannot go on with what is here.
        """
        self._deadline_ns = None
        if self._wanted is not None:
            return ""
        if self._trial:
            return self._go_back(self._before)
        self._unready += 1
        # the first end is that of an agent which was ready
        if self.code and (hopeless or self._unready > PATIENCE):
            return self._go_back("")
        return ""

    def next_ns(self) -> int | None:
        """When to look again."""
        return self._deadline_ns

    def overdue(self, now: int) -> str:
        """Why the agent must be killed; said once."""
        if self._deadline_ns is None or now < self._deadline_ns:
            return ""
        self._deadline_ns = None
        if self._wanted is not None:
            return "it did not end in time for the upgrade"
        return f"it was not ready {self._ready_ns / 1e9:g} s after the upgrade"

    def _go_back(self, code: str) -> str:
        failed, self.code = self.code, code
        self._trial, self._unready, self._deadline_ns = False, 0, None
        self._told = FELL_BACK
        return failed
