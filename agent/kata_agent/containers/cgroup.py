"""A container's cgroup: its path, its end, its removal. cgroup v2, driven through its files.

Owns no descriptor beyond a call. Must not know: limits (crun writes them). Kernel: Documentation/admin-guide/cgroup-v2.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select

from kata_agent.errors import InvalidRequest
from kata_linux import cgroupfs


def plan_path(cgroups_path: str, container_id: str) -> str:
    """The path below the hierarchy's root, from OCI's cgroupsPath: `/a/b` or `slice:prefix:name`."""
    path = "/" + (cgroups_path or container_id).replace(":", "/").strip("/")
    parts = path.split("/")[1:]
    if ".." in parts or "." in parts or not parts[0] or "\0" in path:
        raise InvalidRequest(f"cgroupsPath {cgroups_path!r} does not name a cgroup")
    return "/" + "/".join(part for part in parts if part)


def is_populated(cgroup: str) -> bool:
    """Whether a live process is in the cgroup (a directory) or below; an absent one has none."""
    try:
        return cgroupfs.is_populated(cgroup)
    except FileNotFoundError:
        return False


def kill(cgroup: str) -> None:
    """SIGKILL for all in the cgroup and below, at once; an absent one has nothing to kill."""
    try:
        cgroupfs.kill(cgroup)
    except FileNotFoundError:
        pass  # never made, or removed already


async def wait_empty(cgroup: str) -> None:
    """Wait until no live process is left. No deadline of its own: the caller has one."""
    if is_populated(cgroup):
        await wait_event(cgroup, "populated", 0)


async def wait_event(cgroup: str, key: str, value: int) -> None:
    """Wait until cgroup.events has this value, or the cgroup is gone. No deadline of its own: the caller has one."""
    wanted = f"{key} {value}".encode()
    try:
        fd = os.open(f"{cgroup}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    # The file is always readable; a change is EPOLLPRI, which asyncio cannot ask for, but an epoll inside epoll can.
    watch = select.epoll()
    try:
        watch.register(fd, select.EPOLLPRI | select.EPOLLET)
        while wanted not in os.pread(fd, 4096, 0):
            await _wait_readable(watch.fileno())
            watch.poll(0)
    except OSError as error:
        if error.errno != errno.ENODEV:  # the cgroup was removed while we watched
            raise
    finally:
        watch.close()
        os.close(fd)


async def _wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    changed = loop.create_future()

    def wake() -> None:
        if not changed.done():
            changed.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await changed
    finally:
        loop.remove_reader(fd)
