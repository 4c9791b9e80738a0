"""After a restart of the agent: containers from the traces that the one before left.

Owns reading the traces and deciding what they mean. Must not know the registry. Supervised agents only.
What was under way when the agent died is known by what is missing: a container in state `creating`, a process
without a pid.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from kata_agent.containers import state, statefile
from kata_agent.containers.crun import Place
from kata_agent.containers.removal import remove_flat
from kata_agent.errors import TimedOut
from kata_agent.processes.exits import Target, exactly, since
from kata_linux import pidfd, procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata_agent.containers.container import Container
    from kata_agent.containers.keep import StreamKeeper
    from kata_agent.containers.settings import Settings
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.process import Process

STRAY_DEADLINE_S = 10.0
STRAY_GRACE_S = 0.3
"""crun takes milliseconds: let it end and an exec is whole. Killed in the middle it may have started its process."""
REMOVALS_WAIT_S = 0.5
_KERNEL_THREADS = 2


async def end_strays() -> None:
    """Wait for what the agent before had started for itself, then kill it with all that it started.

    That is whatever lives in our own cgroup: crun, a hook, or a child that is not yet the program it is to become.
    A container's init is a crun, too, until it is started; it is in a cgroup of its own and is left alone.
    """
    deadline = asyncio.get_running_loop().time() + STRAY_GRACE_S
    while strays := _list_strays():
        if not await wait_gone(strays, deadline):
            break
    killed = _list_with_descendants(_list_strays())
    for pid in killed:
        _kill(pid)
    if not await wait_gone(killed, asyncio.get_running_loop().time() + STRAY_DEADLINE_S):
        raise TimedOut(f"what the agent before had started does not end: {', '.join(map(str, killed))}")


def _list_strays() -> list[int]:
    ours = _cgroup_of("self")
    found = []
    for pid in procfs.list_pids():
        try:
            if pid not in (1, os.getpid(), _KERNEL_THREADS) and _cgroup_of(pid) == ours:
                stat = procfs.read_stat(pid)
                if stat.ppid != _KERNEL_THREADS and stat.state not in "ZX":
                    found.append(pid)
        except (OSError, ValueError):
            continue  # ended by itself
    return found


def _list_with_descendants(roots: list[int]) -> list[int]:
    """Those of `roots` that are there still, what they started first killed last, so that none escapes upwards."""
    parents: dict[int, int] = {}
    for pid in procfs.list_pids() if roots else ():
        try:
            parents[pid] = procfs.read_stat(pid).ppid
        except (OSError, ValueError):
            continue  # gone since the list was read
    found = [pid for pid in roots if pid in parents]
    for parent in found:
        found += [pid for pid, above in parents.items() if above == parent and pid not in found]
    return found


class Adopter:
    """Makes containers of work folders."""

    def __init__(
        self, settings: Settings, exits: ExitBook, streams: StreamKeeper, stored: dict[str, tuple[int, ...]]
    ) -> None:
        """What is used of `stored` is taken out of it."""
        self._settings = settings
        self._exits = exits
        self._streams = streams
        self._stored = stored

    def load(self) -> Iterator[Container]:
        """Every container that left a state file, with its streams, following its processes."""
        loaded = []
        for work in statefile.list_works(self._settings.work_root):
            container = statefile.load(work)
            if container is None:
                remove_flat(work)
            else:
                loaded.append(container)
        for container in sorted(loaded, key=lambda container: container.init.start_time):
            self._settle(container)
            yield container

    def _settle(self, container: Container) -> None:
        fifo = f"{self._settings.crun_root}/{container.id}/exec.fifo"
        waits = os.path.exists(fifo) and _is_crun(container.init.pid, self._settings.crun_root)
        if container.state == state.CREATED and not waits:
            container.state = state.RUNNING  # the byte had been written, the state file had not
        if container.state == state.CREATING:
            container.hooks = {}  # nothing ran yet that a hook would have to clean up after
        if container.state == state.CREATED:
            self._streams.restore_start(container.id, self._stored)
        going = container.state in (state.CREATING, state.STOPPED)
        for process in container.processes():
            if going and process.pid and not _is_there(process):
                process.pid = (
                    0  # its exit may have been forgotten already, and nobody can ask for it any more
                )
            elif self._follow(container, process):
                self._streams.restore(process, container.id, self._stored)
                if not _is_there(process):
                    process.expect_exit()
            elif process is not container.init:
                container.drop_process(process)

    def _follow(self, container: Container, process: Process) -> bool:
        """Whether the process was started; then its exit is awaited."""
        if process.pid:
            target = Target(process.start_time, process.latest_start_time)
            process.follow(process.pid, target, self._exits)
            return True
        place = Place(self._settings.work(container.id), f"exec{process.number}")
        try:
            with open(place.file("pid"), encoding="ascii") as file:
                pid = int(file.read())
        except (FileNotFoundError, ValueError):
            return False  # crun had not come so far
        try:
            target = exactly(procfs.read_start_time(pid))
        except (FileNotFoundError, ProcessLookupError):
            target = since(0)
        process.follow(pid, target, self._exits)
        return True


def _is_crun(pid: int, crun_root: str) -> bool:
    """Whether an init is crun still, waiting to be started.

    The fifo cannot tell: it may outlive the start, as it is unlinked after the byte is written, and whoever opens and
    closes it to see lets init read its end.
    """
    try:
        return procfs.read_cmdline(pid)[1:3] == ["--root", crun_root]
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_there(process: Process) -> bool:
    try:
        return process.start_time <= procfs.read_start_time(process.pid) <= process.latest_start_time
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # ended by itself


async def wait_gone(pids: list[int], deadline: float) -> bool:
    """Whether all of these end before the deadline (loop time)."""
    loop = asyncio.get_running_loop()
    for pid in pids:
        try:
            fd = pidfd.open_pidfd(pid)
        except ProcessLookupError:
            continue
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            async with asyncio.timeout_at(deadline):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
            os.close(fd)
    return True


def _cgroup_of(pid: int | str) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        return next((line for line in file.read().splitlines() if line.startswith("0::")), "")
