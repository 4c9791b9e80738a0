"""The decisions of the policy, as operators read them: bounded, the newest kept.

Owns: what is kept. Refusals and allowed calls have a ring each, so that a thousand allowed calls do not push out the
one refusal that somebody looks for; allowed calls that come by the thousand are only counted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kata_linux.record import Record
from kata_policy.rules import FREQUENT

if TYPE_CHECKING:
    from kata_policy.decision import Decision

REFUSED_KEPT = 128
ALLOWED_KEPT = 64


class Entry(Record):
    """One decision. `enforced` is False when the call went on although it was refused."""

    sequence: int
    time_ns: int
    method: str
    container_id: str
    decision: Decision
    enforced: bool
    duration_us: int


class Journal:
    """The newest decisions, and how often each rule allowed or refused."""

    def __init__(self) -> None:
        self.allowed: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self._refusals: deque[Entry] = deque(maxlen=REFUSED_KEPT)
        self._passes: deque[Entry] = deque(maxlen=ALLOWED_KEPT)
        self._sequence = 0

    def note(
        self,
        decision: Decision,
        *,
        time_ns: int,
        method: str,
        container_id: str,
        enforced: bool,
        duration_us: int,
    ) -> None:
        """Note a decision."""
        self._sequence += 1
        counts = self.allowed if decision.allowed else self.refused
        counts[decision.rule] = counts.get(decision.rule, 0) + 1
        if decision.allowed and decision.rule in FREQUENT:
            return
        entry = Entry(self._sequence, time_ns, method, container_id, decision, enforced, duration_us)
        (self._passes if decision.allowed else self._refusals).append(entry)

    def entries(self, after: int = 0) -> list[Entry]:
        """What is kept of the decisions after this sequence number, oldest first."""
        kept = (*self._passes, *self._refusals)
        return sorted((entry for entry in kept if entry.sequence > after), key=lambda entry: entry.sequence)
