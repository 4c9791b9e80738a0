"""Containers whose life is told: every change becomes an event, every signal and failure leaves a trace.

Owns what is told and in which order; the life cycle itself is the registry's, around which this is a shell. Must not
know the wire. Created comes before started, started before exited, exited before removed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kata_agent import events
from kata_agent.containers import inspect, state
from kata_agent.containers.registry import Containers
from kata_agent.errors import UnknownProcess
from kata_linux import cgroupfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata_agent.cgroups.pressure import PressureWatch
    from kata_agent.containers.container import Container
    from kata_agent.containers.inspect import ProcessInfo
    from kata_agent.containers.ports import ContainerRequest
    from kata_agent.containers.settings import Settings
    from kata_agent.events import EventHub
    from kata_agent.processes.process import Process
    from kata_agent.trail import Trail

SIGKILL = 9


class ObservedContainers(Containers):
    """`Containers` that tells the hub; and what is asked about containers beside Kata's methods."""

    def __init__(
        self,
        settings: Settings,
        hub: EventHub,
        trail: Trail,
        pressure: PressureWatch | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(settings, **parts)
        self._pressure = pressure
        self._hub = hub
        self._trail = trail
        self._starting: set[str] = set()
        self._oom_told: dict[str, int] = {}
        self._known: set[tuple[str, str, str]] = set()
        self.exit_reasons = dict.fromkeys(("succeeded", "failed", "signaled", "oom"), 0)
        """Ends of processes that were told of in this life of the agent."""

    # The life cycle

    async def create(self, request: ContainerRequest) -> None:
        """As the registry's; created."""
        await super().create(request)
        container = self._containers.get(request.container_id)
        if container is not None:
            self._hub.emit(events.CREATED, container.id)
            self._watch(container, container.init)

    async def start(self, container_id: str) -> None:
        """As the registry's; started. A first process that ends meanwhile is told of after it."""
        container = self._find(container_id)
        self._starting.add(container_id)
        try:
            await super().start(container_id)
            self._hub.emit(events.STARTED, container_id, pid=container.init.pid)
            self._watch_pressure(container)
        finally:
            self._starting.discard(container_id)
            if container.init.exit is not None:
                self._tell_exit(container, container.init)

    async def exec(
        self, container_id: str, exec_id: str, process: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """As the registry's; started."""
        await super().exec(container_id, exec_id, process, *rest, **more)
        try:
            container = self._find(container_id)
            entry = container.process(exec_id)
        except UnknownProcess:
            return  # it has ended, was waited for and let go
        self._hub.emit(events.STARTED, container_id, exec_id, pid=entry.pid)
        self._watch(container, entry)

    async def signal(self, container_id: str, exec_id: str, number: int) -> None:
        """As the registry's; noted, not told: what comes of it is."""
        self._find(container_id)
        if number:
            self._trail.note_signal(container_id, exec_id, number, "SignalProcess")
        await super().signal(container_id, exec_id, number)

    async def adopt(self) -> None:
        """As the registry's; what ended while no agent was there is told now, once."""
        self._known = {
            (event.container_id, event.exec_id, event.fields.get("pid", "")) for event in self._hub.exits()
        }
        await super().adopt()
        for container in self._containers.values():
            self._watch_all(container)
            self._watch_pressure(container)

    async def _remove(self, container: Container) -> None:
        self._watch_all(container)
        if self._pressure is not None:
            self._pressure.disarm(container.id)
        await super()._remove(container)
        self._oom_told.pop(container.id, None)
        self._hub.emit(events.REMOVED, container.id)

    def _watch_pressure(self, container: Container) -> None:
        if self._pressure is not None and container.state in (state.RUNNING, state.PAUSED):
            self._pressure.arm(container.id, self._directory(container))

    def _watch_all(self, container: Container) -> None:
        for process in container.processes():
            if process.pid:
                self._watch(container, process)

    def _watch(self, container: Container, process: Process) -> None:
        """Tell of this process's end, when it comes or now."""
        if process.exit is not None:
            self._tell_exit(container, process)
        else:
            process.on_exit = partial(self._tell_exit, container)

    def _tell_exit(self, container: Container, process: Process) -> None:
        entry = process.exit
        is_init = process.exec_id == container.id
        if entry is None or process.told or (is_init and container.id in self._starting):
            return
        process.told = True
        process.on_exit = None
        exec_id = "" if is_init else process.exec_id
        if (container.id, exec_id, str(entry.pid)) in self._known:
            return
        how: dict[str, object] = {"code": entry.code} if entry.signal is None else {"signal": entry.signal}
        if entry.signal == SIGKILL and self._take_oom_kill(container):
            how["oom"] = 1
        fields = {"pid": entry.pid, **how}
        self.exit_reasons[_reason(how)] += 1
        self._hub.emit(events.EXITED, container.id, exec_id, time_ns=entry.time_ns, **fields)

    def _take_oom_kill(self, container: Container) -> bool:
        """Whether the kernel killed more processes of this container for want of memory than exits were laid to it."""
        told = self._oom_told.get(container.id, 0)
        if self.oom_kills(container.id) <= told:
            return False
        self._oom_told[container.id] = told + 1
        return True

    # Questions

    def state_of(self, container_id: str) -> str:
        """The container's state; `removed` when there is none of this id."""
        container = self._containers.get(container_id)
        if container is None:
            return "removed"
        return state.STOPPED if container.init.exit is not None else container.state

    def oom_kills(self, container_id: str) -> int:
        """How many processes of the container the kernel has killed for want of memory; 0 when nobody counts."""
        container = self._containers.get(container_id)
        if container is None:
            return 0
        try:
            return cgroupfs.read_flat(self._directory(container), "memory.events").get("oom_kill", 0)
        except OSError:
            return 0  # no memory controller, or the group has just gone

    def list_processes(self, container_id: str) -> list[ProcessInfo]:
        """What runs in a container, or with an empty id in every one. Raises `UnknownContainer`."""
        chosen = (self._find(container_id),) if container_id else tuple(self._containers.values())
        return [info for container in chosen for info in self._list(container)]

    def _list(self, container: Container) -> Iterator[ProcessInfo]:
        asked = {(p.pid, p.start_time): p.exec_id for p in container.processes() if p.pid}
        return inspect.list_processes(self._settings.cgroup_root, container.cgroup, container.id, asked)

    def kill_tree(self, container_id: str, exec_id: str, number: int) -> int:
        """Signal everything in a container, or a process and all that descend from it; gives how many there were."""
        container = self._find(container_id)
        self._trail.note_signal(container_id, exec_id, number, "KillTree")
        directory = self._directory(container)
        if not exec_id:
            return inspect.kill_all(directory, number)
        process = container.process(exec_id)
        if process.exit is not None or not process.pid:
            return 0
        return inspect.kill_tree(directory, process.pid, number)

    def _directory(self, container: Container) -> str:
        return self._settings.cgroup_root + container.cgroup


def _reason(how: dict[str, object]) -> str:
    if "code" in how:
        return "failed" if how["code"] else "succeeded"
    return "oom" if "oom" in how else "signaled"
