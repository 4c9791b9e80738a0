"""What PID 1 has told about this life of the agent, and what its heartbeat found.

Owns the figures alone. Follows: docs/architecture.md, seam 2.
"""

from __future__ import annotations


class Life:
    """Stand-alone it stays as it is made."""

    __slots__ = (
        *("code", "control_version", "lag_us", "last_end", "lost_exits", "number", "outcome", "steps"),
        "worst_lag_us",
    )

    def __init__(self) -> None:
        self.steps: tuple[tuple[str, int], ...] = ()
        self.number = 1
        self.last_end = ""
        self.code = ""
        """The folder that this agent's code came from; empty: the image's own."""
        self.outcome = ""
        """Of an upgrade that this agent is the outcome of: a word of `kata_init.succession`."""
        self.control_version = 0
        self.lost_exits = 0
        """Since the boot, because PID 1's ledger was full."""
        self.lag_us = 0
        self.worst_lag_us = 0

    def note_lag(self, lag_us: int) -> None:
        """How late the event loop took PID 1's last question."""
        self.lag_us = lag_us
        self.worst_lag_us = max(self.worst_lag_us, lag_us)
