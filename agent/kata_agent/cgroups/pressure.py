"""Pressure: told when tasks wait for memory, I/O or a processor for longer than is configured (`agent.pressure`).

Owns the kernel's triggers, of the guest and of each container, and how often one source is told of: at most once in
`HOLD_S`; the next event says how often its limit was met meanwhile. Must not know: who is told. Off, nothing of this
is imported. Follows: Documentation/accounting/psi.rst; decision 0046.
"""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.errors import NotSupported
from kata_linux import psi
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

OFF = "off"
GUEST = "/proc/pressure"
HOLD_S = 10.0
# Stall and window in ms. Tasks that wait for a processor are usual, those that wait for memory are not.
DEFAULTS = {"memory": (200, 2000), "io": (500, 2000), "cpu": (1000, 2000)}
WINDOW_MS = (500, 10_000)


class Limit(Record):
    """What of a resource is told: some task stalled for so long within a window."""

    resource: str
    stall_us: int
    window_us: int


class Met(Record):
    """A limit that was met."""

    container_id: str
    """Empty: the guest's as a whole."""
    limit: Limit
    average: float
    """Share of the last 10 s in which some task stalled, in percent."""
    missed: int
    """How often it was met since the event before, without one."""


def parse_limits(text: str) -> tuple[Limit, ...]:
    """`memory`, `io`, `cpu` with commas, each alone or as `memory:STALL/WINDOW` in ms; `off` is none. ValueError."""
    return () if text == OFF else tuple(_parse_limit(word) for word in text.split(","))


def _parse_limit(word: str) -> Limit:
    resource, colon, figures = word.partition(":")
    if resource not in DEFAULTS:
        raise ValueError(f"not `off` nor a list of {', '.join(DEFAULTS)}")
    stall, window = DEFAULTS[resource]
    if colon:
        first, slash, second = figures.partition("/")
        if not (slash and first.isdecimal() and second.isdecimal()):
            raise ValueError(f"not written as {resource}:STALL/WINDOW, in ms")
        stall, window = int(first), int(second)
    low, high = WINDOW_MS
    if not (low <= window <= high and 0 < stall <= window):
        raise ValueError(f"out of range: the window is {low} to {high} ms, the stall not more")
    return Limit(resource, stall * 1000, window * 1000)


class _Source:
    __slots__ = ("container_id", "limit", "missed", "path", "told_at", "trigger")

    def __init__(self, container_id: str, path: str, limit: Limit, trigger: psi.Trigger) -> None:
        self.container_id = container_id
        self.path = path
        self.limit = limit
        self.trigger = trigger
        self.told_at: float | None = None
        self.missed = 0


class PressureWatch:
    """Needs the running loop; `close` ends it."""

    def __init__(
        self,
        limits: tuple[Limit, ...],
        *,
        tell: Callable[[Met], None],
        report: Callable[[str, BaseException], None],
        guest: str = GUEST,
        hold_s: float = HOLD_S,
    ) -> None:
        """`tell` hears what is met, `report` what cannot be watched; `guest` is the folder of the guest's own files."""
        self._hold_s = hold_s
        self._limits = limits
        self._tell = tell
        self._report = report
        self._sources: list[_Source] = []
        for limit in limits:
            self._open("", f"{guest}/{limit.resource}", limit)

    def arm(self, container_id: str, group: str) -> None:
        """Watch a container, too, whose group is this folder. Twice is fine."""
        if not any(source.container_id == container_id for source in self._sources):
            for limit in self._limits:
                self._open(container_id, f"{group}/{limit.resource}.pressure", limit)

    def disarm(self, container_id: str) -> None:
        """Watch it no more."""
        for source in [source for source in self._sources if source.container_id == container_id]:
            self._end(source)

    def close(self) -> None:
        """Watch nothing."""
        for source in list(self._sources):
            self._end(source)

    def _open(self, container_id: str, path: str, limit: Limit) -> None:
        try:
            trigger = psi.Trigger(path, "some", limit.stall_us, limit.window_us)
        except OSError as error:
            self._report(f"no events of {limit.resource} pressure", _explain(path, error))
            return
        source = _Source(container_id, path, limit, trigger)
        self._sources.append(source)
        asyncio.get_running_loop().add_reader(trigger.fileno(), partial(self._on_met, source))

    def _on_met(self, source: _Source) -> None:
        try:
            average = psi.read(source.path)["some"].avg10
        except OSError:  # its group was removed, and would be told of without end
            self._end(source)
            return
        now = asyncio.get_running_loop().time()
        if source.told_at is not None and now - source.told_at < self._hold_s:
            source.missed += 1
            return
        missed, source.missed, source.told_at = source.missed, 0, now
        self._tell(Met(source.container_id, source.limit, average, missed))

    def _end(self, source: _Source) -> None:
        self._sources.remove(source)
        asyncio.get_running_loop().remove_reader(source.trigger.fileno())
        source.trigger.close()


def _explain(path: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
        return NotSupported(
            f"{path}: this kernel does not tell pressure, boot it with psi=1 or leave agent.pressure out"
        )
    if error.errno == errno.EINVAL:
        return NotSupported(f"{path}: without CAP_SYS_RESOURCE the window must be a multiple of 2000 ms")
    return error
