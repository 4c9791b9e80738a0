"""Out-of-memory kills of containers: seen by memory.events, told to whoever asks, once.

Owns one inotify for all containers, made with the first, and the queue of events that no host has fetched. Must
not know: the wire, how a container's record is kept. Follows: Kata's agent, "OOM events"; cgroup-v2.rst,
memory.events: `oom_kill` counts killed processes, `oom` only says that the limit was met; both include the groups
below, while what met a group's very own limit is in memory.events.local. See decision 0021.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from typing import TYPE_CHECKING

from kata_agent.cgroups.apply import list_ancestors
from kata_agent.errors import AgentError
from kata_linux import cgroupfs, inotify
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS = "memory.events"
LOCAL = "memory.events.local"
# Kata's agent has room for as many. When nobody fetches them, the oldest goes; the log has it all the same.
QUEUE_LIMIT = 100


class Kill(Record):
    """Processes of a container that the kernel killed to get memory."""

    container_id: str
    processes: int
    """Killed since the last event, at least 1."""
    limit: str
    """The cgroup whose limit was met; empty when it was none: the guest itself had no memory left."""


class Account:
    """What is known of one container's kills; belongs in its state file, so that a restarted agent misses none."""

    def __init__(self, seen: dict[str, int] | None = None, unfetched: int = 0) -> None:
        self.seen = seen
        """Counters at the last look: `""` is the container's kills, the rest how often each group's limit was met."""
        self.unfetched = unfetched
        """Events in the queue."""


class _Watched(Record):
    container_id: str
    path: str
    account: Account
    save: Callable[[], None]


class OomWatch:
    """Every container that is watched. `tell` hears each kill, as it is seen; `drop` ids of events nobody fetched."""

    def __init__(
        self, root: str, *, tell: Callable[[Kill], None], drop: Callable[[str], None], record: str = ""
    ) -> None:
        """`record` is a file for events of removed containers, whose own record has gone; without one they end with
        this process."""
        self._root = root
        self._record = record
        self._tell = tell
        self._drop = drop
        self._fd = -1
        self._watches: dict[int, _Watched] = {}
        self._queue: deque[tuple[str, _Watched | None]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def adopt(self) -> None:
        """Go on with what nobody had fetched of containers that are removed."""
        try:
            with open(self._record, encoding="utf-8") as file:
                self._queue.extend((name, None) for name in file.read().splitlines())
        except FileNotFoundError:
            pass  # nothing was left

    def _save_removed(self) -> None:
        if self._record:
            names = [name for name, watched in self._queue if watched is None]
            with open(f"{self._record}.new", "w", encoding="utf-8") as file:
                file.write("".join(f"{name}\n" for name in names))
            os.rename(f"{self._record}.new", self._record)

    def arm(self, container_id: str, path: str, account: Account, save: Callable[[], None]) -> None:
        """Watch the container whose group is at `path`; `save` keeps the account when it changed.

        Kills since the account was last saved are told now. Without a memory controller nothing can be watched.
        """
        watched = _Watched(container_id, path, account, save)
        if any(other.container_id == container_id for other in self._watches.values()):
            return
        if self._fd < 0:
            self._fd = inotify.open_inotify()
            asyncio.get_running_loop().add_reader(self._fd, self._on_change)
        try:
            self._watches[inotify.add_watch(self._fd, f"{self._root}{path}/{EVENTS}")] = watched
        except FileNotFoundError:
            return
        self._queue.extend((container_id, watched) for _ in range(account.unfetched))
        if account.seen is None:
            # The group is new, its counters are 0; those of its ancestors are not.
            account.seen = {**self._read_limits(path), "": 0, path: 0}
        self._look(watched)

    def disarm(self, container_id: str) -> None:
        """Look a last time, and watch no more. What is in the queue can still be fetched."""
        for number, watched in tuple(self._watches.items()):
            if watched.container_id == container_id:
                self._look(watched)
                del self._watches[number]
                _end_watch(self._fd, number)
        if any(name == container_id and of is not None for name, of in self._queue):
            self._queue = deque((name, None if name == container_id else of) for name, of in self._queue)
            self._save_removed()

    async def fetch(self) -> str:
        """The id of the container of the oldest event that nobody has fetched; each event goes to one caller.

        Fails with the text `""`, which hosts know, when the sandbox has gone.
        """
        while not self._queue:
            if self._closed:
                raise AgentError('""')
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # Whoever was woken and goes away hands the turn on.
                if waiter.done() and not waiter.cancelled():
                    self._wake()
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self._take()

    def close(self) -> None:
        """The sandbox has gone: watch nothing, let go whoever waits."""
        self._closed = True
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._watches.clear()
        while self._waiters:
            self._wake()

    def _on_change(self) -> None:
        numbers, lost = inotify.read_watches(self._fd)
        for number in tuple(self._watches) if lost else numbers:
            watched = self._watches.get(number)
            if watched is not None:
                self._look(watched)

    def _look(self, watched: _Watched) -> None:
        """Compare the counters with those of the last look; new kills are one event."""
        kills = self._read(watched.path, EVENTS, "oom_kill")
        before = watched.account.seen or {}
        if kills <= before.get("", 0):
            return
        now = {**self._read_limits(watched.path), "": kills}
        limit = next((path for path in now if path and now[path] > before.get(path, 0)), "")
        watched.account.seen = now
        self._put(watched)
        watched.save()
        self._tell(Kill(watched.container_id, kills - before.get("", 0), limit))

    def _read_limits(self, path: str) -> dict[str, int]:
        """How often the limits were met of the group itself (with those below it) and of its ancestors, inner first."""
        met = {path: self._read(path, EVENTS, "oom")}
        for folder in reversed(list_ancestors(self._root, path)):
            ancestor = folder.removeprefix(self._root)
            met[ancestor] = self._read(ancestor, LOCAL, "oom")
        return met

    def _read(self, path: str, file: str, key: str) -> int:
        try:
            return cgroupfs.read_flat(self._root + path, file).get(key, 0)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return 0  # removed, or without the controller
            raise

    def _put(self, watched: _Watched) -> None:
        if len(self._queue) == QUEUE_LIMIT:
            self._drop(self._take())
        self._queue.append((watched.container_id, watched))
        watched.account.unfetched += 1
        self._wake()

    def _take(self) -> str:
        container_id, watched = self._queue.popleft()
        if watched is not None:
            watched.account.unfetched -= 1
            watched.save()
        else:
            self._save_removed()
        return container_id

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


def _end_watch(fd: int, number: int) -> None:
    try:
        inotify.remove_watch(fd, number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file went first
            raise
