"""What was tried on containers: signals that were sent and calls that failed, the newest of each, in memory alone.

For the question why a container ended. Must not know: containers, the wire.
"""

from __future__ import annotations

import time
from collections import deque

from kata_linux.record import Record

LIMIT = 256
TEXT_LIMIT = 500


class Signalled(Record):
    """A signal that the host asked for."""

    time_ns: int
    container_id: str
    exec_id: str
    signal: int
    method: str


class Failed(Record):
    """A call that failed."""

    time_ns: int
    container_id: str
    method: str
    text: str


class Trail:
    """Both records, bounded: the oldest goes."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._signals: deque[Signalled] = deque(maxlen=limit)
        self._failures: deque[Failed] = deque(maxlen=limit)

    def note_signal(self, container_id: str, exec_id: str, number: int, method: str) -> None:
        """A signal is being sent."""
        self._signals.append(Signalled(time.time_ns(), container_id, exec_id, number, method))

    def note_failure(self, container_id: str, method: str, text: str) -> None:
        """A call about this container has failed."""
        self._failures.append(Failed(time.time_ns(), container_id, method, text[:TEXT_LIMIT]))

    def signals(self, container_id: str) -> list[Signalled]:
        """Those of a container, oldest first."""
        return [entry for entry in self._signals if entry.container_id == container_id]

    def failures(self, container_id: str) -> list[Failed]:
        """Those of a container, oldest first."""
        return [entry for entry in self._failures if entry.container_id == container_id]
