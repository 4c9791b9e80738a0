"""What became of each device that was waited for: its state, its users and its times.

Owns: the records behind `ListDevices`, and telling of changes. Must not know: what a device is used for. Of two waits
for one device one record comes; a device that is plugged again starts its record anew. At most `LIMIT` records are
kept, the oldest of those without a use goes first.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from kata_agent.devices import pci
from kata_agent.errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kata_agent.devices.hotplug import Arrival, Hotplug
    from kata_agent.devices.match import Matcher
    from kata_linux.uevent import Uevent

LIMIT = 256
WAITING, READY, MOUNTED, FAILED, GONE = "waiting", "ready", "mounted", "failed", "gone"


class Entry:
    """One device. Times are CLOCK_MONOTONIC in nanoseconds, 0 for what has not happened; `mount_ns` is how long the
    mount system call itself took."""

    def __init__(self, handler: str, text: str) -> None:
        self.handler = handler
        self.text = text
        self.state = WAITING
        self.reason = ""
        self.arrival: Arrival | None = None
        self.users: set[str] = set()
        self.asked_ns = time.monotonic_ns()
        self.mounted_ns = 0
        self.mount_ns = 0


class Book:
    """One per agent."""

    def __init__(self, hotplug: Hotplug, tell: Callable[[str, str], None]) -> None:
        """`tell` hears of every change: a container's id or nothing, and a sentence."""
        self._hotplug = hotplug
        self._tell = tell
        self._entries: dict[tuple[str, str], Entry] = {}
        hotplug.on_event.append(self._hear)

    async def wait(self, handler: str, matcher: Matcher, user: str = "") -> Arrival:
        """`Hotplug.wait`, with a record. `handler` is the wire's word, `user` a container or nothing."""
        key = (handler, matcher.text)
        entry = self._entries.get(key)
        if entry is None or entry.state in (FAILED, GONE):
            entry = self._add(key)
        try:
            arrival = await self._hotplug.wait(matcher)
        except BaseException as error:
            if entry.state == WAITING:
                entry.state, entry.reason = FAILED, describe(error)
                self._tell(user, f"{entry.text}: {entry.reason}")
            raise
        self._note(entry, arrival, user).users.add(user)
        return arrival

    def note_mounted(self, handler: str, text: str, mount_ns: int) -> None:
        """The file system of a device has just been mounted; the call took `mount_ns`."""
        entry = self._entries.get((handler, text))
        if entry is not None and entry.state == READY:
            entry.state, entry.mounted_ns, entry.mount_ns = MOUNTED, time.monotonic_ns(), mount_ns

    def release(self, user: str) -> None:
        """`user` has gone."""
        for entry in self._entries.values():
            entry.users.discard(user)
            if entry.state == MOUNTED and not entry.users:
                entry.state = READY

    def entries(self) -> Iterator[Entry]:
        """Every record, oldest first. A device whose removal nobody heard of is found gone now."""
        for entry in tuple(self._entries.values()):
            if entry.arrival and _is_there(entry) and not os.path.exists(entry.arrival.found.folder):
                self._lose(entry)
            yield entry

    def _add(self, key: tuple[str, str]) -> Entry:
        self._entries.pop(key, None)
        if len(self._entries) >= LIMIT:
            idle = (key for key, entry in self._entries.items() if entry.state != WAITING and not entry.users)
            oldest = next(idle, None) or next(iter(self._entries))
            del self._entries[oldest]
        entry = self._entries[key] = Entry(*key)
        return entry

    def _note(self, entry: Entry, arrival: Arrival, user: str) -> Entry:
        """The record of a device that is there; a new one for one that is not what it was."""
        if entry.state in (READY, MOUNTED) and entry.arrival and entry.arrival.found == arrival.found:
            return entry
        if entry.state not in (WAITING, FAILED):
            entry = self._add((entry.handler, entry.text))
        entry.arrival, entry.state, entry.reason = arrival, READY, ""
        self._tell(user, f"{entry.text}: ready as {arrival.found.node or arrival.found.name}")
        return entry

    def _hear(self, event: Uevent) -> None:
        if event.action != "remove":
            return
        for entry in self._entries.values():
            if entry.arrival and _is_there(entry) and entry.arrival.devpath == event.devpath:
                self._lose(entry)

    def _lose(self, entry: Entry) -> None:
        entry.state = GONE
        self._tell("", f"{entry.text}: gone{' while it was in use' if entry.users else ''}")


def _is_there(entry: Entry) -> bool:
    return entry.state in (READY, MOUNTED)


def find_driver(folder: str) -> str:
    """The driver of a device, or of the nearest one it lies on; empty without one."""
    for parent in _parents(folder):
        if driver := pci.read_driver(parent):
            return driver
    return ""


def find_group(folder: str) -> str:
    """The IOMMU group of a device, or of the nearest one it lies on; empty without one."""
    for parent in _parents(folder):
        if os.path.islink(f"{parent}/iommu_group"):
            return os.path.basename(os.readlink(f"{parent}/iommu_group"))
    return ""


def _parents(folder: str) -> Iterator[str]:
    path = os.path.realpath(folder)
    while path.count("/") > 2:
        yield path
        path = os.path.dirname(path)
