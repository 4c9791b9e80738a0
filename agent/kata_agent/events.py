"""What happened in this guest, in order: a bounded ring of events, read from a cursor by any number of readers.

Owns the ring, the cursor's meaning and the copy on disk, from which the next agent goes on with the same cursors.
Must not know: containers, the wire. A cursor is `TOKEN.NUMBER`: the history it belongs to and the event wanted next.
Overflow drops the oldest; a reader that wanted them, or comes with a cursor of another history, is told of a gap.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from kata_linux.record import Record
from kata_linux.write import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 2048
EXITS_LIMIT = 1024
_LENGTH_BYTES = 4
_FORMAT = "kata-events 1"

# Kinds of events; `services/events.py` has their numbers on the wire.
CREATED = "created"
STARTED = "started"
EXITED = "exited"
OOM = "oom"
REMOVED = "removed"
RESTARTED = "restarted"
UPGRADED = "upgraded"
RESUMED = "resumed"
HUNG = "hung"
PRESSURE = "pressure"
DEVICE = "device"
GAP = "gap"


class Event(Record):
    """`fields` is what this kind has beside the rest, all text."""

    sequence: int
    time_ns: int
    kind: str
    container_id: str
    exec_id: str
    fields: dict[str, str]


class EventHub:
    """The history. Not more than `limit` events and `exits_limit` exits are kept."""

    def __init__(
        self,
        path: str = "",
        *,
        limit: int = LIMIT,
        exits_limit: int = EXITS_LIMIT,
        report: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """`path` is the copy on disk; without one the history ends with this process. `report` hears why there
        is no copy any more."""
        self._path = path
        self._limit = limit
        self._report = report
        self._first = 1
        self._ring: deque[bytes] = deque()
        self._exits: deque[tuple[int, bytes]] = deque()
        self._exits_limit = exits_limit
        self.exits_dropped = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._fd = -1
        self._written = 0
        self.token = os.urandom(4).hex()
        if path:
            self._guard(self._open)

    @property
    def next(self) -> int:
        """The number that the next event will have."""
        return self._first + len(self._ring)

    def emit(
        self, kind: str, container_id: str = "", exec_id: str = "", *, time_ns: int = 0, **fields: object
    ) -> int:
        """Add an event; gives its number."""
        number = self.next
        line = _encode(kind, container_id, exec_id, time_ns or time.time_ns(), fields)
        self._add(line)
        if self._fd >= 0:
            self._guard(lambda: self._append(line))
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return number

    def cursor(self, number: int) -> str:
        """The cursor with which a reader gets this event first."""
        return f"{self.token}.{number}"

    def find(self, cursor: str, *, only_new: bool = False) -> tuple[int, Event | None]:
        """The number of the first event for this reader, and the gap before it, if there is one.

        Raises ValueError for what is no cursor.
        """
        if not cursor:
            return (self.next if only_new else self._first), None
        token, dot, digits = cursor.partition(".")
        if not dot or not digits.isdecimal():
            raise ValueError(f"cursor {cursor[:40]!r}: it is `TOKEN.NUMBER`, as an event or a poll gave it")
        number = int(digits)
        if token != self.token or number > self.next:
            reason = "the history of that cursor is gone: the guest was started anew, or its record was lost"
            return self._first, self._gap(1, self._first, reason)
        if number < self._first:
            return self._first, self._gap(
                number, self._first, f"only the newest {self._limit} events are kept"
            )
        return number, None

    def since(self, number: int, limit: int) -> list[Event]:
        """Events from this number on, at most `limit`. The number is one that is kept, or the next."""
        start = max(number, self._first)
        end = min(self.next, start + limit)
        return [_decode(at, self._ring[at - self._first]) for at in range(start, end)]

    def is_lost(self, number: int) -> Event | None:
        """The gap that a reader at this number has come to, if it was too slow."""
        if number >= self._first:
            return None
        return self._gap(number, self._first, "read too slowly")

    async def wait_for(self, number: int) -> None:
        """Wait until there is an event of this number."""
        while self.next <= number:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def exits(self) -> Iterator[Event]:
        """The exits that are kept, oldest first; they outlive other events."""
        return (_decode(number, line) for number, line in tuple(self._exits))

    def of_kind(self, kind: str) -> Iterator[Event]:
        """What is kept of one kind, oldest first."""
        found = [(number, line) for number, line in enumerate(self._ring, self._first) if _kind(line) == kind]
        return (_decode(number, line) for number, line in found)

    def about(self, container_id: str) -> list[Event]:
        """What is kept about a container."""
        return [event for event in self.since(self._first, self._limit) if event.container_id == container_id]

    def close(self) -> None:
        """Let go of the copy on disk, which stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _gap(self, first: int, end: int, reason: str) -> Event:
        return Event(
            first, time.time_ns(), GAP, "", "", {"first": str(first), "end": str(end), "reason": reason}
        )

    def _add(self, line: bytes) -> None:
        if _kind(line) == EXITED:
            self._exits.append((self.next, line))
            if len(self._exits) > self._exits_limit:
                self._exits.popleft()
                self.exits_dropped += 1
        self._ring.append(line)
        if len(self._ring) > self._limit:
            self._ring.popleft()
            self._first += 1

    # The copy on disk: a header, then the events, each behind its length. It is written anew at twice the limit.

    def _open(self) -> None:
        try:
            with open(self._path, "rb") as file:
                lines = list(_split(file.read()))
        except FileNotFoundError:
            lines = []
        header = lines[0].decode().split("\0") if lines else []
        if len(header) == 3 and header[0] == _FORMAT:
            self.token, self._first = header[1], int(header[2])
            for line in lines[1:]:
                self._add(line)
        self._rewrite()

    def _rewrite(self) -> None:
        header = f"{_FORMAT}\0{self.token}\0{self._first}".encode()
        fresh = f"{self._path}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND, 0o600)
        try:
            write_all(fd, b"".join(map(_frame, (header, *self._ring))))
            os.rename(fresh, self._path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd = fd
        self._written = len(self._ring)

    def _append(self, line: bytes) -> None:
        write_all(self._fd, _frame(line))
        self._written += 1
        if self._written > 2 * self._limit:
            self._rewrite()

    def _guard(self, work: Callable[[], None]) -> None:
        """A copy that cannot be kept must not stay: the next agent would take a torn history for a whole one."""
        try:
            work()
        except (OSError, ValueError) as error:
            self.close()
            if self._report is not None:
                self._report(f"events are kept in memory alone: {self._path}", error)
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass


def _encode(kind: str, container_id: str, exec_id: str, time_ns: int, fields: dict[str, object]) -> bytes:
    parts = [kind, str(time_ns), container_id, exec_id]
    for name, value in fields.items():
        parts += (name, str(value).replace("\0", " "))
    return "\0".join(parts).encode("utf-8", "backslashreplace")


def _decode(number: int, line: bytes) -> Event:
    kind, time_ns, container_id, exec_id, *rest = line.decode().split("\0")
    fields = dict(zip(rest[::2], rest[1::2], strict=True))
    return Event(number, int(time_ns), kind, container_id, exec_id, fields)


def _kind(line: bytes) -> str:
    return line.partition(b"\0")[0].decode()


def _frame(line: bytes) -> bytes:
    return len(line).to_bytes(_LENGTH_BYTES, "big") + line


def _split(data: bytes) -> Iterator[bytes]:
    """The whole records; a last one that was cut by a death in the middle of its write is not one."""
    at = 0
    while (start := at + _LENGTH_BYTES) <= len(data):
        end = start + int.from_bytes(data[at:start], "big")
        if end > len(data):
            return
        yield data[start:end]
        at = end
