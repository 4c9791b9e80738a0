"""Program: every verb of `Containers` is cancelled at each of its awaits, a removal is late; nothing is left.

Run as root, as a process of its own (it makes itself a private mount namespace). Prints one line for each await that
was tried and ends with status 1 at the first trace that is left.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ClassVar

from kata_agent import standalone
from kata_agent.containers.registry import ContainerRequest, Containers, Settings
from kata_agent.errors import TimedOut, UnknownContainer
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_init.exits import reap
from kata_testing.native import busybox_root
from kata_testing.requires import crun_path
from kata_testing.wire import outcome

ID = f"cancelled-{os.getpid()}"
BASE = "/run/kata-agent/base"
DEADLINE_S = 100.0
INHERITED: set[str] = set()


class NoSandbox:
    """A sandbox that shares nothing."""

    sandbox_id = ""
    ipc_path = None
    uts_path = None
    guest_hooks: ClassVar[dict[str, list[dict[str, object]]]] = {}


class CountedStorages:
    """Counts what is mounted."""

    def __init__(self) -> None:
        self.mounted = 0
        self.may_release = asyncio.Event()
        self.may_release.set()

    async def mount(self, container_id: str, storages: Any) -> tuple[str, ...]:
        """Mount one; an await of its own follows."""
        self.mounted += 1
        return ("one",)

    async def release(self, container_id: str, names: tuple[str, ...]) -> None:
        """Release it, when it may be."""
        await self.may_release.wait()
        self.mounted -= len(names)

    def adopt(self, container_id: str, names: tuple[str, ...]) -> None:
        """Not used here."""


@types.coroutine
def cancel_at(work: Coroutine[Any, Any, Any], number: int) -> Generator[Any, Any, bool]:
    """Drive the work and cancel it at its await of this number; whether it came so far."""
    count = 0
    try:
        while True:
            waited = work.send(None)
            if count == number:
                waited = work.throw(asyncio.CancelledError())
            count += 1
            yield waited
    except StopIteration:
        return count > number
    except asyncio.CancelledError:
        return True


def request() -> ContainerRequest:
    """A small container with a storage."""
    spec = {
        "process": {"args": ["sleep", "1000"], "env": ["PATH=/bin"]},
        "root": {"path": str(busybox_root())},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }
    return ContainerRequest(ID, spec, storages=("one",))


def traces(storages: CountedStorages) -> list[str]:
    """What can be seen of a container."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        found = [line for line in file if ID in line]
    folders = ("/sys/fs/cgroup", BASE, "/run/kata-agent/containers", "/run/kata-agent/crun")
    found += [f"{folder}/{ID}" for folder in folders if os.path.exists(f"{folder}/{ID}")]
    return found + sorted(open_fds() - INHERITED) + ["a storage"] * storages.mounted


def open_fds() -> set[str]:
    """Descriptors that streams, consoles and logs would be."""
    names = os.listdir("/proc/self/fd")
    links = {
        os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.lexists(f"/proc/self/fd/{name}")
    }
    return {link for link in links if link.startswith(("pipe:", "/dev/p", "/dev/null"))}


def list_processes() -> list[int]:
    """Pids of the container's cgroup."""
    try:
        with open(f"/sys/fs/cgroup/{ID}/cgroup.procs", encoding="ascii") as file:
            return [int(line) for line in file]
    except FileNotFoundError:
        return []


def check_processes(what: str, number: int) -> None:
    """All but the container's init have ended, or end now: they were killed."""
    for pid in list_processes()[1:]:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(5000):
            raise SystemExit(f"{what} cancelled at await {number} left process {pid}")
        os.close(fd)


async def try_all(
    what: str,
    containers: Containers,
    storages: CountedStorages,
    make: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Cancel the verb at one await after the other until it has none left."""
    number, came_so_far = 0, True
    while came_so_far:
        if what != "create":
            await containers.create(request())
            await containers.start(ID)
        came_so_far = await cancel_at(make(), number)
        if what == "exec" and came_so_far:
            check_processes(what, number)
        if ID in containers.ids() and (what == "exec" or not came_so_far):
            await containers.remove(ID)
        elif ID in containers.ids() and what == "remove":
            raise SystemExit(f"{what} cancelled at await {number} did not go on to its end")
        left = traces(storages)
        if left or containers.ids():
            raise SystemExit(f"{what} cancelled at await {number} left {left} {containers.ids()}")
        sys.stdout.write(f"{what} {number}\n")
        number += 1


async def try_late_removal(containers: Containers, storages: CountedStorages) -> None:
    """A removal that is not done in time says so and goes on to its end."""
    await containers.create(request())
    storages.may_release.clear()
    try:
        await containers.remove(ID, timeout_s=0.01)
    except TimedOut as error:
        sys.stdout.write(f"late {error}\n")
    async with asyncio.TaskGroup() as group:
        second = group.create_task(outcome(containers.remove(ID)))
        await asyncio.sleep(0)
        storages.may_release.set()
    if not isinstance(second.result(), UnknownContainer) or traces(storages):
        raise SystemExit(f"a late removal ended with {second.result()!r} and left {traces(storages)}")


async def main() -> None:
    """All verbs."""
    crun = crun_path()
    assert crun is not None
    storages = CountedStorages()
    book = ExitBook()
    attach_reaper(book, reap)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        containers = Containers(
            Settings(crun_path=crun, base_dir=BASE),
            group=group,
            exits=book,
            sandbox=NoSandbox(),
            storages=storages,
        )
        process = {"args": ["sleep", "1000"], "env": ["PATH=/bin"]}
        await try_all("create", containers, storages, lambda: containers.create(request()))
        await try_all("exec", containers, storages, lambda: containers.exec(ID, "e", dict(process)))
        await try_all("remove", containers, storages, lambda: containers.remove(ID))
        await try_late_removal(containers, storages)


if __name__ == "__main__":
    INHERITED |= open_fds()
    standalone.enter_private_world()
    asyncio.run(main())
