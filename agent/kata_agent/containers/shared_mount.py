"""Mounts of one container shown in another: `shared_mounts` of CreateContainer.

Owns: waiting for the mount, and the way from one mount namespace to the other. Must not know: why. Follows: Kata's
agent 3.21, "Shared mounts between containers", which looks every 100 ms, says nothing when the mount does not come and
passes over a failure of the last step. Here the kernel tells of changes of the source's mount table (poll(2) of
mountinfo).

Paths are the containers' own: they are resolved below each one's root, whatever links lie there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.containers import state
from kata_agent.errors import InvalidRequest
from kata_linux import mount, mountinfo, namespaces, openat2
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.containers.container import Container
    from kata_agent.log import Log
    from kata_agent.worker import Worker

WAIT_S = 10.0
NAMES = ("io.kubernetes.cri.container-name", "io.kubernetes.cri-o.ContainerName")
_ALIVE = (state.CREATED, state.RUNNING, state.PAUSED)
_INSIDE = openat2.RESOLVE_IN_ROOT | openat2.RESOLVE_NO_MAGICLINKS


class SharedMount(Record):
    """What is mounted at `source_path` of the container named `source`, at `target_path` of the new one."""

    name: str
    source: str
    source_path: str
    target_path: str


class Sharer:
    """Does it. The threads of `worker` are used once, so one may enter a namespace and never come back."""

    def __init__(self, worker: Worker, log: Log, wait_s: float = WAIT_S) -> None:
        self._worker = worker
        self._log = log
        self._wait_s = wait_s

    async def share(
        self, wanted: Iterable[SharedMount], container: Container, others: Iterable[Container]
    ) -> None:
        """Bring every mount that is there, or comes in time; one that does not is told in the log.

        Raises `InvalidRequest` (a path that is none), OSError (the mount cannot be made there).
        """
        known = tuple(others)
        for one in wanted:
            check(one)
            source = find_source(one.source, container, known)
            if source is None:
                self._skip(one, "there is no such container")
            elif not await self._wait_mounted(source.init.pid, one.source_path):
                self._skip(one, f"nothing was mounted there within {self._wait_s:g} s")
            else:
                tree = await self._worker.run(partial(clone, source.init.pid, one.source_path))
                try:
                    await self._worker.run(partial(attach, tree, container.init.pid, one.target_path))
                finally:
                    os.close(tree)

    async def _wait_mounted(self, pid: int, path: str) -> bool:
        """Whether something is mounted at `path` before the time is over; the kernel tells when to look."""
        try:
            with open_table(pid) as poll:
                async with asyncio.timeout(self._wait_s):
                    while not is_mounted(pid, path):
                        await _wait_readable(poll.fileno())
                        poll.poll(0)
        except (TimeoutError, FileNotFoundError, ProcessLookupError):
            return False  # not in time, or never: the container has ended
        else:
            return True

    def _skip(self, one: SharedMount, why: str) -> None:
        fields = {"name": one.name, "container": one.source, "path": one.source_path, "why": why}
        self._log.warning("container", "shared mount left out", **fields)


def check(one: SharedMount) -> None:
    """Refuse paths that do not say plainly where they are."""
    for path in (one.source_path, one.target_path):
        if not path.startswith("/") or ".." in path.split("/") or not path.strip("/"):
            raise InvalidRequest(
                f"shared mount {one.name!r}: path {path!r}: an absolute one below / is needed"
            )


def find_source(name: str, container: Container, others: tuple[Container, ...]) -> Container | None:
    """The container of this Kubernetes name that has processes."""
    for other in others:
        names = (other.annotations.get(key) for key in NAMES)
        if other is not container and other.state in _ALIVE and name and name in names:
            return other
    return None


@contextmanager
def open_table(pid: int) -> Iterator[select.epoll]:
    """Readable whenever the mounts that `pid` sees have changed; whoever was told calls `poll(0)`."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as table, select.epoll() as poll:
        poll.register(table.fileno(), select.EPOLLPRI)
        yield poll


def is_mounted(pid: int, path: str) -> bool:
    """Whether something is mounted right at `path`, as `pid` sees it."""
    return mountinfo.find_mount(mountinfo.read_mounts(pid), path.rstrip("/")) is not None


def clone(pid: int, path: str) -> int:
    """A detached copy of what is mounted at `path` in the root of `pid`, with all below it. The thread is lost."""
    root = _enter(pid)
    try:
        fd = openat2.openat2(root, path.lstrip("/"), os.O_PATH, resolve=_INSIDE)
        try:
            return mount.clone_tree("", dir_fd=fd, recursive=True)
        finally:
            os.close(fd)
    finally:
        os.close(root)


def attach(tree: int, pid: int, path: str) -> None:
    """Hang the copy at `path` in the root of `pid`, which is made if it is missing. The thread is lost."""
    is_folder = stat.S_ISDIR(os.fstat(tree).st_mode)
    root = _enter(pid)
    try:
        fd = _make_place(root, path, is_folder=is_folder)
        try:
            mount.attach_tree(tree, "", dir_fd=fd)
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(fd)
    finally:
        os.close(root)


async def _wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)


def _enter(pid: int) -> int:
    """Go into the mount namespace of `pid`; its root, which a chroot may have made another than the namespace's."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.unshare(namespaces.CLONE_FS)
            namespaces.setns(fd, namespaces.CLONE_NEWNS)
        finally:
            os.close(fd)
    except BaseException:
        os.close(root)
        raise
    return root


def _make_place(root: int, path: str, *, is_folder: bool) -> int:
    """The mount point as a descriptor (O_PATH), with the folders that lead there."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    for depth in range(1, len(names) + 1):
        below = "/".join(names[:depth])
        try:
            os.close(openat2.openat2(root, below, os.O_PATH, resolve=_INSIDE))
        except FileNotFoundError:
            _make_one(root, names[: depth - 1], names[depth - 1], is_folder=is_folder or depth < len(names))
    return openat2.openat2(root, "/".join(names), os.O_PATH, resolve=_INSIDE)


def _make_one(root: int, folders: list[str], name: str, *, is_folder: bool) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY
    parent = openat2.openat2(root, "/".join(folders) or ".", flags, resolve=_INSIDE)
    try:
        if is_folder:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, create, 0o644, dir_fd=parent))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    finally:
        os.close(parent)
