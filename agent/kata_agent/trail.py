"""What was tried on containers: signals that were sent and calls that failed, the newest of each.

For the question why a container ended, which is asked after it. With a folder the next agent goes on with both, in the
way of the events (decision 0030). Must not know: containers, the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.events import EventHub
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def __init__(
        self,
        folder: str = "",
        limit: int = LIMIT,
        report: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """`folder` holds the copies on disk; without one they end with this process."""

        def open_record(name: str) -> EventHub:
            return EventHub(f"{folder}/{name}" if folder else "", limit=limit, report=report)

        self._signals = open_record("signals")
        self._failures = open_record("failures")

    def note_signal(self, container_id: str, exec_id: str, number: int, method: str) -> None:
        """A signal is being sent."""
        self._signals.emit("signal", container_id, exec_id, signal=number, method=method)

    def note_failure(self, container_id: str, method: str, text: str) -> None:
        """A call about this container has failed."""
        self._failures.emit("failure", container_id, method=method, text=text[:TEXT_LIMIT])

    def signals(self, container_id: str) -> list[Signalled]:
        """Those of a container, oldest first."""
        return [
            Signalled(
                event.time_ns,
                container_id,
                event.exec_id,
                int(event.fields["signal"]),
                event.fields["method"],
            )
            for event in self._signals.about(container_id)
        ]

    def failures(self, container_id: str) -> list[Failed]:
        """Those of a container, oldest first."""
        return [
            Failed(event.time_ns, container_id, event.fields["method"], event.fields["text"])
            for event in self._failures.about(container_id)
        ]

    def close(self) -> None:
        """Let go of the copies on disk, which stay."""
        self._signals.close()
        self._failures.close()
