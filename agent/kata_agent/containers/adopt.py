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
from kata_agent.processes.exits import exactly, since
from kata_linux import pidfd, procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata_agent.containers.container import Container
    from kata_agent.containers.crun import Crun
    from kata_agent.containers.keep import StreamKeeper
    from kata_agent.containers.settings import Settings
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.process import Process

STRAY_DEADLINE_S = 10.0


async def end_strays(settings: Settings, crun: Crun) -> None:
    """Kill the crun processes that the agent before had started, and wait until they are gone.

    A container's init is a crun, too, until it is started; it is in a cgroup of its own and is left alone.
    """
    ours = _cgroup_of("self")
    for pid in procfs.list_pids():
        try:
            words = procfs.read_cmdline(pid)
            if crun.owns(words) and _cgroup_of(pid) == ours:
                await _kill(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass  # ended by itself


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
        if container.state == state.CREATED and not os.path.exists(fifo):
            container.state = state.RUNNING  # the byte had been written, the state file had not
        if container.state == state.CREATING:
            container.hooks = {}  # nothing ran yet that a hook would have to clean up after
        for process in container.processes():
            if self._follow(container, process):
                self._streams.restore(process, container.id, self._stored)
            elif process is not container.init:
                container.drop_process(process)

    def _follow(self, container: Container, process: Process) -> bool:
        """Whether the process was started; then its exit is awaited."""
        if process.pid:
            process.follow(process.pid, exactly(process.start_time), self._exits)
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


async def _kill(pid: int) -> None:
    fd = pidfd.open_pidfd(pid)
    try:
        pidfd.send_signal(fd, signal.SIGKILL)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, ended.set)
        try:
            async with asyncio.timeout(STRAY_DEADLINE_S):
                await ended.wait()
        except TimeoutError:
            raise TimedOut(f"crun {pid} of the agent before does not end") from None
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)


def _cgroup_of(pid: int | str) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        return next((line for line in file.read().splitlines() if line.startswith("0::")), "")
