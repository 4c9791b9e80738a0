"""Standing still for a snapshot, and going on as a copy.

Owns: the order of the steps, what stands still because of it, and the record of that, from which a restarted agent
goes on. Must not know: the wire, how a step is done. Each call is all or nothing up to the point where containers go
on; what cannot be undone is logged.

No timer is recomputed: every deadline here and in PID 1 is one of CLOCK_MONOTONIC, which stands while a machine is
saved. No socket is listened on anew: a listening vsock socket is bound to any context id, and what a new device resets
are connections, whose clients dial again.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING

from kata_agent import events
from kata_agent.containers import state
from kata_agent.errors import TimedOut, WrongState, describe
from kata_agent.snapshot import repair
from kata_agent.snapshot.steps import Steps
from kata_agent.worker import Doubtful
from kata_linux import fsfreeze, mountinfo

if TYPE_CHECKING:
    from kata_agent.parts import Parts
    from kata_agent.snapshot.repair import Generation, Wanted
    from kata_agent.snapshot.steps import Step

DEADLINE_S = 30.0
RECORD = "quiesced"
FILESYSTEMS = frozenset({"ext4", "xfs", "btrfs", "f2fs"})
_CALLS_AT_ONCE = 4


class Snapshot:
    """One per agent. `quiet` tells the dispatcher that nothing may be changed."""

    def __init__(self, agent: Parts, folder: str) -> None:
        self._agent = agent
        self._folder = folder
        self._lock = asyncio.Lock()
        self._containers: list[str] = []
        self._frozen: list[str] = []
        self.quiet = False

    @property
    def generation(self) -> Generation:
        """Which copy this machine is."""
        return repair.read_generation(self._folder)

    def adopt(self) -> None:
        """After a restart of the agent: what the one before had brought to a halt still stands."""
        try:
            with open(self._record, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return
        self.quiet = True
        self._containers = [line[2:] for line in lines if line.startswith("c ")]
        self._frozen = [line[2:] for line in lines if line.startswith("f ")]

    async def quiesce(
        self,
        *,
        freeze_filesystems: bool,
        timeout_s: float,
        warm: bool = False,
        disk: tuple[str, str] | None = None,
    ) -> tuple[list[Step], list[str]]:
        """Bring everything to a halt; gives the steps and the containers. Raises `WrongState`, `TimedOut`, OSError.

        `warm`: rehearse a container's life before, with a storage on `disk` (PCI path, file system), and settle the
        agent's memory at the end.
        """
        if self.quiet:
            raise WrongState("the machine is quiesced already: call Resumed first")
        self.quiet = True  # from here on nothing that changes begins
        steps = Steps()
        try:
            async with asyncio.timeout(timeout_s or DEADLINE_S), self._lock:
                if warm:
                    with steps.step("rehearse"):
                        steps.note(await self._rehearse(disk))
                with steps.step("freeze containers"):
                    await self._freeze_containers()
                    steps.note(f"{len(self._containers)} of {len(self._ids())}")
                kernel = Doubtful(_CALLS_AT_ONCE, timeout_s or DEADLINE_S)
                with steps.step("sync"):
                    await kernel.run("sync", os.sync)
                if freeze_filesystems:
                    with steps.step("freeze file systems"):
                        await self._freeze_filesystems(kernel)
                        steps.note(" ".join(self._frozen) or "none on a disk")
                if warm:
                    with steps.step("settle memory"):
                        from kata_agent.snapshot import settle

                        steps.note(settle.settle())
        except BaseException as error:
            await self._go_on(Steps())
            if isinstance(error, TimeoutError):
                raise TimedOut(
                    f"quiesce: not done in {timeout_s or DEADLINE_S:g} s; done were "
                    f"{', '.join(step.name for step in steps.done) or 'no steps'}, and they are undone"
                ) from None
            raise
        self._agent.log.info("snapshot", "quiesced", containers=len(self._containers))
        return steps.done, list(self._containers)

    async def resumed(self, wanted: Wanted) -> tuple[list[Step], Generation]:
        """Repair what a copy has wrong, then let everything go on. Raises `InvalidRequest`, OSError."""
        repair.check(wanted)
        steps = Steps()
        async with self._lock:
            with steps.step("clock"):
                steps.note(repair.set_clock(wanted.time_ns))
            with steps.step("random numbers"):
                steps.note(repair.reseed(wanted.random))
            with steps.step("names"):
                steps.note(repair.set_names(wanted.hostname, wanted.machine_id))
            with steps.step("generation"):
                generation = repair.bump_generation(self._folder)
                steps.note(str(generation.number))
            await self._go_on(steps)
        self._agent.events.emit(events.RESUMED, number=generation.number, id=generation.id)
        self._agent.log.info("snapshot", "resumed", generation=generation.number)
        return steps.done, generation

    async def _rehearse(self, disk: tuple[str, str] | None) -> str:
        """Only where a sandbox is still to come: it is what the rehearsal needs, and there is only one."""
        if self._agent.has_sandbox() or self._ids():
            return "not rehearsed: there is a sandbox already"
        from kata_agent.snapshot.rehearsal import rehearse

        understudy = self._agent.make_understudy()
        try:
            return await rehearse(understudy, disk)
        finally:
            await understudy.aclose()

    async def _freeze_containers(self) -> None:
        """Pause those that run; the record grows with each, so that one that a killed agent has paused goes on."""
        controls = self._agent.containers.controls if self._agent.has_containers() else None
        if controls is None:
            return
        running = [name for name in self._ids() if self._agent.containers.state_of(name) == state.RUNNING]

        async def pause(name: str) -> None:
            self._containers.append(name)
            self._save()
            await controls.pause(name)

        async with asyncio.TaskGroup() as group:
            for name in running:
                group.create_task(pause(name))

    async def _freeze_filesystems(self, kernel: Doubtful) -> None:
        seen = set()
        for mount in mountinfo.read_mounts():
            writable = "rw" in mount.options and "rw" in mount.super_options
            if mount.fstype in FILESYSTEMS and writable and mount.device not in seen:
                seen.add(mount.device)
                self._frozen.append(mount.mount_point)
                self._save()
                await kernel.run(f"freeze {mount.mount_point}", partial(fsfreeze.freeze, mount.mount_point))

    async def _go_on(self, steps: Steps) -> None:
        """Undo the halt, the latest first. A failure is told, and the rest goes on."""
        if self._frozen:
            with steps.step("thaw file systems"):
                for mount_point in reversed(self._frozen):
                    self._try(f"thaw {mount_point}", partial(fsfreeze.thaw, mount_point))
                steps.note(" ".join(self._frozen))
        if self._containers:
            with steps.step("thaw containers"):
                for name in self._containers:
                    await self._resume(name)
                steps.note(str(len(self._containers)))
        self._containers, self._frozen, self.quiet = [], [], False
        self._try("forget", partial(_unlink, self._record))

    async def _resume(self, name: str) -> None:
        """One that was removed meanwhile, or not frozen yet, is left."""
        if self._agent.containers.state_of(name) != state.PAUSED:
            return
        try:
            await self._agent.containers.controls.resume(name)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._tell(f"resume {name}", error)

    def _ids(self) -> tuple[str, ...]:
        return self._agent.containers.ids() if self._agent.has_containers() else ()

    def _save(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        lines = [*(f"c {name}" for name in self._containers), *(f"f {path}" for path in self._frozen)]
        temporary = f"{self._record}.new"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{line}\n" for line in lines))
        os.rename(temporary, self._record)

    @property
    def _record(self) -> str:
        return f"{self._folder}/{RECORD}"

    def _try(self, what: str, function: partial[None]) -> None:
        try:
            function()
        except OSError as error:
            self._tell(what, error)

    def _tell(self, what: str, error: Exception) -> None:
        self._agent.log.warning("snapshot", what, error=describe(error))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
