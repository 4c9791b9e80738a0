"""Ending containers: kill all of it, wait until it is gone, undo what was made.

Owns the order and the deadlines. Must not know the registry. Follows: Kata's agent, RemoveContainer; cgroup v2.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from kata_agent.containers import bundle, cgroup, state
from kata_agent.errors import TimedOut
from kata_agent.processes.signals import send_to_process
from kata_linux import cgroupfs

if TYPE_CHECKING:
    from kata_agent.containers.container import Container
    from kata_agent.containers.crun import Crun
    from kata_agent.containers.hooks import HookRunner
    from kata_agent.containers.settings import Settings
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.process import Process

# A killed process ends when the kernel lets it: after its last page of I/O, not after a time of ours.
KILL_DEADLINE_S = 30.0


class Remover:
    """Unmakes what `launch` made."""

    def __init__(self, settings: Settings, crun: Crun, exits: ExitBook, hook_runner: HookRunner) -> None:
        self._settings = settings
        self._crun = crun
        self._exits = exits
        self._hooks = hook_runner

    async def end(self, container: Container) -> None:
        """Make an end of all that runs of the container; what was made for it can be undone then."""
        await self._end_processes(container)
        for process in container.processes():
            process.discard(self._exits)
        await self._hooks.run(container, "poststop", state.STOPPED, 0)
        container.hooks.pop("poststop", None)  # once, also when the removal must be tried again

    async def clear(self, container: Container) -> None:
        """Kill whatever lives in the cgroup, then remove it and crun's state; what is not there is fine."""
        await self._empty_cgroup(container)
        cgroupfs.remove(self._cgroup(container))
        self._crun.forget(container.id)

    def kill(self, process: Process) -> None:
        """Kill one process, if it was started."""
        if process.pid:
            send_to_process(process.pid, process.start_time, signal.SIGKILL)

    def unmount_root(self, container: Container) -> None:
        """Before the storages are released: one of them may hold the root. What a storage mounted there stays."""
        if container.root_mounted:
            bundle.unmount(self._settings.bundle(container.id))

    def remove_bundle(self, container: Container) -> None:
        """After the storages are released: one of them may be mounted in the bundle."""
        bundle.remove(self._settings.bundle(container.id))

    def remove_work(self, container: Container) -> None:
        """Our own files, the last trace."""
        remove_flat(self._settings.work(container.id))

    async def _end_processes(self, container: Container) -> None:
        await self._empty_cgroup(container)
        try:
            async with asyncio.timeout(KILL_DEADLINE_S):
                await container.wait_idle()  # an exec under way may have entered the cgroup after the kill
                await self._empty_cgroup(container)
                for process in container.processes():
                    await process.wait_gone()
        except TimeoutError:
            raise TimedOut(
                f"ETIME: remove {container.id}: no exit of its killed processes was seen"
            ) from None

    async def _empty_cgroup(self, container: Container) -> None:
        directory = self._cgroup(container)
        if not cgroup.is_populated(directory):
            return
        cgroup.kill(directory)
        try:
            async with asyncio.timeout(KILL_DEADLINE_S):
                await cgroup.wait_empty(directory)
        except TimeoutError:
            raise TimedOut(f"ETIME: remove {container.id}: processes of {directory} do not end") from None

    def _cgroup(self, container: Container) -> str:
        return self._settings.cgroup_root + container.cgroup


def remove_flat(folder: str) -> None:
    """Remove a folder that holds files only."""
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    os.rmdir(folder)
