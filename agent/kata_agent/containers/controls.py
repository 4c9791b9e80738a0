"""What is done to a container's cgroup while it lives: new limits, figures, pausing.

Owns the order of state, freezer and record. Must not know: the registry's map, the wire. Follows: Kata's agent,
"Update, Stats, Pause, Resume"; cgroup-v2.rst. What is written where is `kata_agent.cgroups`'s.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from kata_agent.cgroups import apply, plan, stats
from kata_agent.containers import bundle, cgroup, resources, state
from kata_agent.containers.crun import Place
from kata_agent.errors import TimedOut, WrongState
from kata_linux import cgroupfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kata_agent.containers.container import Container
    from kata_agent.containers.crun import Crun
    from kata_agent.containers.settings import Settings

    Run = Callable[[Callable[[], Any]], Awaitable[Any]]

# A process freezes when it next comes out of the kernel; one that waits for a dead disk does not.
FREEZE_DEADLINE_S = 10.0


class Controls:
    """Verbs on containers that `find` knows; `save` keeps the record of one."""

    def __init__(
        self,
        settings: Settings,
        crun: Crun,
        *,
        find: Callable[[str], Container],
        save: Callable[[Container], None],
    ) -> None:
        self._settings = settings
        self._crun = crun
        self._find = find
        self._save = save

    async def update(self, container_id: str, wanted: dict[str, Any], run: Run) -> None:
        """Change the limits that `wanted` has, all or none; `run` is for what may block: shrinking memory reclaims."""
        container = self._find(container_id)
        async with container.lock:
            state.plan_transition(container_id, "update", container.state)
            facts = apply.observe(self._directory(container))
            writes = plan.plan_writes(wanted, facts)
            rules = resources.plan_devices(wanted) if wanted.get("devices") else []
            await run(partial(apply.apply, self._settings.cgroup_root, container.cgroup, writes))
            if rules:
                await self._update_devices(container, rules)

    def read_stats(self, container_id: str) -> stats.Stats:
        """The figures of now. Waits for nobody, whatever else is done to the container."""
        container = self._find(container_id)
        if container.state == state.CREATING:
            raise WrongState(f"failed to get stats of container {container_id}: it is {container.state}")
        return stats.read_stats(self._directory(container))

    async def pause(self, container_id: str) -> None:
        """Freeze every process of it; frozen when this returns. A failure leaves it as it was."""
        container = self._find(container_id)
        async with container.lock:
            before = container.state
            container.advance("pause")  # from here on no exec begins
            directory = self._directory(container)
            try:
                async with asyncio.timeout(FREEZE_DEADLINE_S):
                    await container.wait_idle()  # an exec under way would hang, and its caller with it
                    cgroupfs.set_frozen(directory, frozen=True)
                    await cgroup.wait_event(directory, "frozen", 1)
            except BaseException as error:
                container.state = before
                cgroupfs.set_frozen(directory, frozen=False)
                if isinstance(error, TimeoutError):
                    raise TimedOut(
                        f"failed to pause container {container_id}: not frozen after {FREEZE_DEADLINE_S:.0f} s"
                    ) from None
                raise
            self._save(container)

    async def resume(self, container_id: str) -> None:
        """Let its processes go on."""
        container = self._find(container_id)
        async with container.lock:
            state.plan_transition(container_id, "resume", container.state)
            cgroupfs.set_frozen(self._directory(container), frozen=False)
            container.advance("resume")
            self._save(container)

    def settle(self, container: Container) -> None:
        """After a restart of the agent: the freezer knows whether the one before had come to pausing, or resuming."""
        try:
            frozen = cgroupfs.is_freezing(self._directory(container))
        except FileNotFoundError:
            return  # made by nobody, or gone
        container.state = state.plan_observed(container.state, frozen=frozen)

    def _directory(self, container: Container) -> str:
        return self._settings.cgroup_root + container.cgroup

    async def _update_devices(self, container: Container, rules: list[dict[str, Any]]) -> None:
        """crun replaces the program that it attached at create, in one step (BPF_F_REPLACE)."""
        place = Place(self._settings.work(container.id), "update")
        bundle.write_json(place.file("json"), {"devices": rules})
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            await self._crun.update(container.id, place, (null, null, null))
        finally:
            os.close(null)
            os.unlink(place.file("json"))
