"""The flight recorder: the last calls, in memory that PID 1 keeps: the next agent tells what this one did last.

Owns a ring of `SLOTS` calls in a memfd, each written when it begins and completed when it ends; and a second memfd, to
which the interpreter writes its threads' stacks when a fatal signal ends it. Both are of a fixed size and hold names,
ids and times, never a request's contents. Must not know: the wire, containers. Part of the idle agent, because a call
that was not recorded cannot be told; two writes of a microsecond each per call.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

NAME = "flight"
SLOTS = 256
CRASH_LIMIT_BYTES = 64 << 10

# Streams and questions of a heartbeat's kind would leave nothing else in the ring.
QUIET = frozenset(
    {
        "Check",
        "ReadStdout",
        "ReadStderr",
        "WriteStdin",
        "TtyWinResize",
        "ReadSession",
        "PollEvents",
        "GetMetrics",
    }
)

# number, time, life, method, id | duration, state, code: what follows the bar is written at the end.
_BEGIN = struct.Struct("=QqI40s76s")
_END = struct.Struct("=QBB6x")
_SIZE = _BEGIN.size + _END.size
_RUNNING, _DONE = 1, 2
_LIFE_MARK = b"== life %d\n"


class RecordedCall(Record):
    """A call as the ring has it. `duration_us` and `code` count for one that is `finished`."""

    number: int
    time_ns: int
    life: int
    method: str
    container_id: str
    finished: bool
    code: int
    duration_us: int


class Flight:
    """The recorder of this life of the agent. Owns both descriptors."""

    def __init__(self, ring: int, crash: int, *, life: int = 1) -> None:
        """Goes on with what is in the ring."""
        self.ring = ring
        self.crash = crash
        self.life = life
        self.last_crash = ""
        self._next = max((call.number for call in self.read()), default=0) + 1

    def begin(self, method: str, container_id: str) -> int:
        """Note that a call begins; gives its number."""
        number = self._next
        self._next += 1
        record = _BEGIN.pack(
            number,
            time.time_ns(),
            self.life,
            method.encode()[:40],
            container_id.encode("utf-8", "replace")[:76],
        )
        if self.ring >= 0:
            os.pwrite(self.ring, record + _END.pack(0, _RUNNING, 0), number % SLOTS * _SIZE)
        return number

    def end(self, number: int, code: int, duration_ns: int) -> None:
        """Note how it ended, unless its place belongs to a later call by now."""
        if number > self._next - 1 - SLOTS and self.ring >= 0:
            place = number % SLOTS * _SIZE + _BEGIN.size
            os.pwrite(self.ring, _END.pack(duration_ns // 1000, _DONE, code), place)

    def recorder(self, method: str) -> Callable[[Any, Any], Callable[[int, str], None]]:
        """What `around.surround` does around each call of this method."""

        def begin(request: Any, _call: Any) -> Callable[[int, str], None]:
            started = time.monotonic_ns()
            number = self.begin(method, getattr(request, "container_id", ""))
            return lambda code, _text: self.end(number, code, time.monotonic_ns() - started)

        return begin

    def read(self) -> list[RecordedCall]:
        """What the ring holds, oldest first."""
        data = os.pread(self.ring, SLOTS * _SIZE, 0)
        calls = []
        for start in range(0, len(data) - _SIZE + 1, _SIZE):
            number, time_ns, life, method, container_id = _BEGIN.unpack_from(data, start)
            duration_us, state, code = _END.unpack_from(data, start + _BEGIN.size)
            if state:
                names = (_text(method), _text(container_id))
                calls.append(RecordedCall(number, time_ns, life, *names, state == _DONE, code, duration_us))
        return sorted(calls)

    def close(self) -> None:
        """Close both, after the interpreter was told to forget the second. Calls that end later are not recorded."""
        import faulthandler

        faulthandler.disable()
        os.close(self.ring)
        os.close(self.crash)
        self.ring = self.crash = -1

    def take_crash(self) -> None:
        """Keep the stacks that the life before this one has left, and have this one's written behind them."""
        import faulthandler

        left = os.pread(self.crash, 2 * CRASH_LIMIT_BYTES, 0)
        self.last_crash = _text(left.rpartition(b"== life ")[2].partition(b"\n")[2]) if left else ""
        if len(left) > CRASH_LIMIT_BYTES:
            os.ftruncate(self.crash, 0)
        os.lseek(self.crash, 0, os.SEEK_END)
        os.write(self.crash, _LIFE_MARK % self.life)
        faulthandler.enable(self.crash, all_threads=True)


def open_flight(stored: tuple[int, ...], life: int) -> Flight:
    """The recorder that PID 1 has kept (`stored`), or a new one."""
    if len(stored) == 2:
        flight = Flight(*stored, life=life)
    else:
        flight = Flight(os.memfd_create("flight"), os.memfd_create("crash"), life=life)
    flight.take_crash()
    return flight


def describe(calls: Sequence[RecordedCall], limit: int) -> str:
    """The newest calls in one line, those that never ended first."""
    last = sorted(calls, key=lambda call: (call.finished, -call.number))[:limit]
    return "; ".join(
        f"{call.method} {call.container_id}".rstrip()
        + (f" ({call.duration_us} us)" if call.finished else " (under way)")
        for call in last
    )


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")
