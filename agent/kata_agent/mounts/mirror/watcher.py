"""Keeps mirrors up to date for as long as they are there.

Owns: when each is looked at. Must not know: storages, the wire. Where the kernel tells (a source in the guest's own
file systems) inotify wakes it. A share of another machine (virtiofs, 9p, FUSE) tells nothing: its mirrors are
looked at every `INTERVAL_S`, all of them in one thread, and the next look is planned when the last one has ended, so a
file server that hangs holds one thread and no more. See decision 0102.
"""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.errors import describe
from kata_agent.mounts.mirror import copy
from kata_agent.mounts.mirror.snapshot import Stamp, TooLargeError, UnsettledError
from kata_linux import inotify, mountinfo
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.log import Log
    from kata_agent.worker import Worker

INTERVAL_S = 2.0  # Kata's
REMOTE = ("virtiofs", "9p", "fuse", "nfs", "cifs", "ceph", "")
_CHANGES = (
    inotify.IN_CLOSE_WRITE
    | inotify.IN_ATTRIB
    | inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
)


class Mirror:
    """One source and its copy."""

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.known: dict[str, Stamp] = {}
        self.fingerprint: tuple[object, ...] | None = None
        self.told = ""
        self.stopped = False
        self.is_remote: bool | None = None
        self.is_watched = False


class Looked(Record):
    """What a look has found: the watches there are now, and what went wrong."""

    mirror: Mirror
    watches: tuple[int, ...]
    error: Exception | None


class Watcher:
    """All mirrors. `group` outlives them and owns the looks."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        worker: Worker,
        log: Log,
        interval_s: float = INTERVAL_S,
        is_remote: Callable[[str], bool] | None = None,
    ) -> None:
        self._group = group
        self._worker = worker
        self._log = log
        self._interval_s = interval_s
        self._is_remote = is_remote or is_on_other_machine
        self._mirrors: dict[str, Mirror] = {}
        self._changed: set[str] = set()
        self._watches: dict[int, str] = {}
        self._fd = -1
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, source: str, target: str) -> None:
        """Look after a mirror that has been copied once."""
        self._mirrors[target] = Mirror(source, target)
        self._changed.add(target)  # whatever happened since the first copy
        self._look()

    async def stop(self, target: str) -> None:
        """Look after it no more; when this returns nothing writes to it."""
        mirror = self._mirrors.pop(target, None)
        if mirror is None:
            return
        mirror.stopped = True
        self._changed.discard(target)
        self._forget_watches(target)
        if self._looking is not None:
            await asyncio.wait([self._looking])
        if not self._mirrors:
            self.close()

    def close(self) -> None:
        """Nothing is looked at any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._watches.clear()

    def _look(self) -> None:
        """Begin a look at what has changed, unless one is under way; it sees to the rest itself."""
        if self._looking is None and self._changed:
            self._looking = self._group.create_task(self._look_at_changed())

    async def _look_at_changed(self) -> None:
        try:
            while self._changed:
                mirrors = [self._mirrors[target] for target in self._changed if target in self._mirrors]
                self._changed.clear()
                for result in await self._worker.run(partial(self._look_at, mirrors, self._open_inotify())):
                    self._take(result)
        finally:
            self._looking = None
        self._plan_next()

    def _look_at(self, mirrors: list[Mirror], inotify_fd: int) -> list[Looked]:
        """Bring those up to date whose fingerprint is another one. In a worker."""
        results = []
        for mirror in mirrors:
            if mirror.stopped:
                continue
            watches: list[int] = []
            error: Exception | None = None
            try:
                watches = self._watch(mirror, inotify_fd)  # before the look: what comes after it is told
                _bring_up_to_date(mirror)
            except (OSError, UnsettledError) as failure:
                error = failure
            results.append(Looked(mirror, tuple(watches), error))
        return results

    def _watch(self, mirror: Mirror, fd: int) -> list[int]:
        """Let the kernel tell of changes, if it can; else the mirror is looked at from time to time."""
        if mirror.is_remote is None:
            mirror.is_remote = self._is_remote(mirror.source)
        if mirror.is_remote:
            return []
        return [inotify.add_watch(fd, folder, _CHANGES) for folder in _list_folders(mirror.source)]

    def _take(self, result: Looked) -> None:
        """A failure is told once; it is tried again with the next look."""
        mirror = result.mirror
        # One that failed is tried again in any case; one that has an old version rids itself of it.
        mirror.is_watched = bool(result.watches) and mirror.fingerprint is not None and result.error is None
        self._watches.update((number, mirror.target) for number in result.watches)
        text = "" if result.error is None else describe(result.error)
        if text and text != mirror.told:
            self._log.warning("storage", "mirror is behind its source", mount_point=mirror.target, error=text)
        mirror.told = text
        if mirror.stopped and self._mirrors.get(mirror.target) in (mirror, None):
            self._mirrors.pop(mirror.target, None)
            self._forget_watches(mirror.target)

    def _plan_next(self) -> None:
        if self._timer is None and any(not mirror.is_watched for mirror in self._mirrors.values()):
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._changed.update(target for target, mirror in self._mirrors.items() if not mirror.is_watched)
        self._look()

    def _open_inotify(self) -> int:
        if self._fd < 0:
            self._fd = inotify.open_inotify()
            asyncio.get_running_loop().add_reader(self._fd, self._on_event)
        return self._fd

    def _forget_watches(self, target: str) -> None:
        for number in [number for number, of in self._watches.items() if of == target]:
            del self._watches[number]
            try:
                inotify.remove_watch(self._fd, number)
            except OSError:
                pass  # the folder went, and its watch with it

    def _on_event(self) -> None:
        events, lost = inotify.read_events(self._fd)
        for event in events:
            target = self._watches.get(event.watch)
            if event.mask & inotify.IN_IGNORED:
                self._watches.pop(event.watch, None)
            elif target is None:
                lost = True  # a watch that the look under way has just made
            elif target in self._mirrors:
                self._changed.add(target)
        if lost:
            self._changed.update(target for target, mirror in self._mirrors.items() if not mirror.is_remote)
        self._look()


def is_on_other_machine(path: str) -> bool:
    """Whether changes of `path` may be made where this kernel does not see them; also when that is not known."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return True
    number = f"{os.major(device)}:{os.minor(device)}"
    for entry in mountinfo.read_mounts():
        if entry.device == number:
            return entry.fstype.split(".")[0] in REMOTE
    return True


def _list_folders(source: str) -> list[str]:
    """A folder and those in it; of a file its folder, because it may be replaced."""
    if not os.path.isdir(source):
        return [os.path.dirname(source)]
    return [folder for folder, _, _ in os.walk(source)]


def _bring_up_to_date(mirror: Mirror) -> None:
    try:
        seen = copy.look(mirror.source)
        if seen != mirror.fingerprint:
            is_left = copy.synchronise(mirror.source, mirror.target, mirror.known)
            mirror.fingerprint = None if is_left else seen
    except TooLargeError as error:
        copy.cover(mirror.source, mirror.target)
        mirror.stopped = True
        text = f"mirror: {error}: bound instead; a container that runs keeps what it sees"
        raise OSError(errno.EFBIG, text, mirror.target) from None
