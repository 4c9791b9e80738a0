"""The agent's parts, each made when it is first asked for.

Owns: who is handed what, and how the agent ends. Must not know: the wire. A guest whose host only asks for health
never imports containers, mounts or anything else behind these properties.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from kata_agent import flight
from kata_agent.durations import Durations
from kata_agent.life import Life

if TYPE_CHECKING:
    from kata_agent.cgroups.oom import Kill, OomWatch
    from kata_agent.cgroups.pressure import Met, PressureWatch
    from kata_agent.config import Config
    from kata_agent.containers.observed import ObservedContainers
    from kata_agent.containers.shared_mount import Sharer
    from kata_agent.devices.attach import Devices
    from kata_agent.devices.book import Book
    from kata_agent.devices.cdi.inject import Cdi
    from kata_agent.devices.hotplug import Hotplug
    from kata_agent.events import EventHub
    from kata_agent.flight import Flight
    from kata_agent.guest.copyfile import Copier
    from kata_agent.hub.confidential import Confidential
    from kata_agent.log import Log
    from kata_agent.memory.agent import MemoryAgent
    from kata_agent.metrics.collect import Collector
    from kata_agent.mounts.mirror.watcher import Watcher
    from kata_agent.mounts.storage.registry import Storages
    from kata_agent.network.network import Network
    from kata_agent.operators import Operators
    from kata_agent.policy.gate import Gate
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.passed import PassedConnections
    from kata_agent.sandbox import Sandbox
    from kata_agent.snapshot.snapshot import Snapshot
    from kata_agent.tracing.tracer import Tracer
    from kata_agent.trail import Trail
    from kata_agent.upgrade.upgrader import Init, Upgrader
    from kata_agent.worker import Doubtful, Worker

BASE_DIRECTORY = "/run/kata-containers"
RUN_DIRECTORY = "/run/kata-agent"
STORAGES_DIRECTORY = f"{RUN_DIRECTORY}/storages"
CRUN = "/usr/bin/crun"
COMPONENTS_CGROUP = "/sys/fs/cgroup/guest-components"
CGROUP_ROOT = "/sys/fs/cgroup"
KERNEL_CALLS_AT_ONCE = 16
DOUBTFUL_CALLS_AT_ONCE = 8
DOUBTFUL_CALL_S = 5.0
LAST_CALLS = 16


class Host(Protocol):
    """Who keeps descriptors for the agent: PID 1, or nobody."""

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies of `fds` under `name`."""

    def discard(self, name: str) -> None:
        """Close what is kept under `name`."""


class Agent:
    """Everything that handlers may reach. `stored` are the descriptors PID 1 handed back, by name."""

    def __init__(
        self,
        config: Config,
        log: Log,
        *,
        group: asyncio.TaskGroup,
        exits: ExitBook,
        host: Host,
        stored: dict[str, tuple[int, ...]],
        supervised: bool,
        stopping: asyncio.Event | None = None,
        life: Life | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.supervised = supervised
        self.stopping = stopping or asyncio.Event()
        self.life = life or Life()
        self.durations = Durations()
        self.destroyed = False
        self.gate: Gate | None = None
        self.init: Init | None = None
        """PID 1 as who starts the next agent; nobody does stand-alone."""
        self._group = group
        self._exits = exits
        self._host = host
        self._stored = stored
        self._passed: PassedConnections | None = None
        self._pressure: PressureWatch | None = None
        self.memory: MemoryAgent | None = None
        self.operators: Operators | None = None

    @cached_property
    def worker(self) -> Worker:
        """Threads for kernel calls that may block."""
        from kata_agent.worker import Worker

        return Worker(KERNEL_CALLS_AT_ONCE)

    @cached_property
    def doubtful(self) -> Doubtful:
        """Threads for calls that may never return."""
        from kata_agent.worker import Doubtful

        return Doubtful(DOUBTFUL_CALLS_AT_ONCE, DOUBTFUL_CALL_S)

    @cached_property
    def storages(self) -> Storages:
        """Mounts made for the sandbox and its containers."""
        from kata_agent.mounts.storage.arriving import ArrivingStorages
        from kata_agent.mounts.storage.journal import Journal

        journal = Journal(STORAGES_DIRECTORY if self.supervised else None)
        return ArrivingStorages(
            *(self.worker, self.log, journal, self._make_watcher, lambda: self.confidential.hub),
            find_book=lambda: self.device_book,
        )

    @cached_property
    def sandbox(self) -> Sandbox:
        """What containers share."""
        from kata_agent.sandbox import Sandbox

        return Sandbox(self, owns_guest=self.supervised, base=BASE_DIRECTORY, run=RUN_DIRECTORY)

    @cached_property
    def network(self) -> Network:
        """Interfaces, routes and neighbours."""
        from kata_agent.network.network import Network

        async def wait_for_device(path: str) -> None:
            from kata_agent.devices.match import NetworkAt

            await self.device_book.wait("network", NetworkAt(path))

        return Network(self.worker, self.log, wait_for_device)

    @cached_property
    def hotplug(self) -> Hotplug:
        """Who waits for devices."""
        from kata_agent.devices.hotplug import Hotplug

        return Hotplug(
            self.worker,
            self.log,
            self.config.hotplug_timeout_s,
            start=self._group.create_task,
            load_module=self.load_module,
            owns_guest=self.supervised,
        )

    @cached_property
    def cdi(self) -> Cdi:
        """What containers need of devices, by the Container Device Interface."""
        from kata_agent.devices.cdi.inject import Cdi

        return Cdi(self.worker, self.config.cdi_timeout_s)

    @cached_property
    def device_book(self) -> Book:
        """What became of each device that was waited for."""
        from kata_agent.devices.book import Book

        def tell(container_id: str, text: str) -> None:
            self.log.info("device", text, **{"container-id": container_id})
            self.events.emit("device", container_id, text=text)

        return Book(self.hotplug, tell)

    @cached_property
    def devices(self) -> Devices:
        """Who gives containers their devices."""
        from kata_agent.devices.attach import Devices

        devices = Devices(self.device_book, self.worker, self.log, self.load_module)
        for recorded in self.containers.recorded_devices():  # of an agent before this one
            devices.adopt(recorded)
        return devices

    @cached_property
    def copier(self) -> Copier:
        """Writer of files that the host sends."""
        from kata_agent.guest.copyfile import Copier

        return Copier(BASE_DIRECTORY, self.worker)

    @cached_property
    def oom(self) -> OomWatch:
        """Watcher of containers' out-of-memory kills."""
        from kata_agent.cgroups.oom import OomWatch

        def drop(container_id: str) -> None:
            self.log.warning(
                "cgroup", "out-of-memory event not fetched, dropped", **{"container-id": container_id}
            )

        record = f"{RUN_DIRECTORY}/oom" if self.supervised else ""
        return OomWatch(CGROUP_ROOT, tell=self._tell_kill, drop=drop, record=record)

    @cached_property
    def events(self) -> EventHub:
        """What happened in this guest; supervised, the next agent goes on with it."""
        from kata_agent.events import EventHub

        if not self.supervised:
            return EventHub()  # nobody would come after this agent
        os.makedirs(RUN_DIRECTORY, mode=0o700, exist_ok=True)
        return EventHub(f"{RUN_DIRECTORY}/events", report=self._report)

    @cached_property
    def upgrader(self) -> Upgrader:
        """Whoever has another agent's code looked at, and hands over to it."""
        from kata_agent.upgrade.upgrader import Upgrader

        return Upgrader(self.init, self.life, self._exits, self.log, self.worker, RUN_DIRECTORY)

    @property
    def drain_s(self) -> float:
        """How long calls in flight have; 0 when no other agent is to follow this one."""
        return self.upgrader.drain_ms / 1000 if self._has("upgrader") else 0.0

    @cached_property
    def trail(self) -> Trail:
        """Signals that were sent and calls that failed; supervised, the next agent knows them, too."""
        from kata_agent.trail import Trail

        if not self.supervised:
            return Trail()
        os.makedirs(RUN_DIRECTORY, mode=0o700, exist_ok=True)
        return Trail(RUN_DIRECTORY, report=self._report)

    @cached_property
    def snapshot(self) -> Snapshot:
        """Standing still to be saved, and going on as a copy."""
        from kata_agent.snapshot.snapshot import Snapshot

        return Snapshot(self, RUN_DIRECTORY)

    def is_quiet(self) -> bool:
        """Whether the machine stands still, so that nothing may be changed."""
        return self._has("snapshot") and self.snapshot.quiet

    @cached_property
    def metrics(self) -> Collector:
        """Figures for `GetMetrics`."""
        from kata_agent.metrics.collect import Collector

        def reasons() -> dict[str, int]:
            return self.containers.exit_reasons if self._has("containers") else {}

        return Collector(self.log, self.durations, self.life, reasons)

    @cached_property
    def containers(self) -> ObservedContainers:
        """Every container."""
        from kata_agent.containers.observed import ObservedContainers
        from kata_agent.containers.settings import Settings

        return ObservedContainers(
            Settings(
                crun_path=self.config.crun_path or find_crun(),
                base_dir=BASE_DIRECTORY,
                run_dir=RUN_DIRECTORY,
                container_pipe_size_bytes=self.config.container_pipe_size_bytes,
                exact_reads=self.supervised,
            ),
            hub=self.events,
            trail=self.trail,
            pressure=self._pressure,
            group=self._group,
            exits=self._exits,
            sandbox=self.sandbox,
            storages=self.storages,
            keeper=self._host,
            passed=self._passed,
            stored=self._stored,
            report=self._report,
            note=self._note,
            oom=self.oom,
            find_guard=self._find_guard,
            release_devices=self.release_devices,
            make_sharer=self._make_sharer,
        )

    def start_memory_agent(self) -> None:
        """Begin to take back cold memory, if that is configured. A failure is logged: everything else works."""
        if not self.config.mem_agent_enable:
            return
        from kata_agent.memory.agent import MemoryAgent

        self.memory = MemoryAgent(self.config, worker=self.worker, exits=self._exits, log=self.log)
        self.memory.start(self._group)

    def stop_tasks(self) -> None:
        """End what goes on without anybody's call; the task group waits for it."""
        if self.memory is not None:
            self.memory.close()
        if self._has("confidential"):
            self.confidential.stop_starting()

    @cached_property
    def confidential(self) -> Confidential:
        """Initdata, guest components and the hub."""
        from kata_agent.hub.confidential import Confidential

        return Confidential(self.config, self.log, self.worker)

    def begin_confidential(self) -> None:
        """Load initdata and start the guest components, where the guest has any of it."""
        from kata_agent.hub import probe

        disk = probe.find_initdata()
        wanted = probe.list_wanted(self.config.guest_components_procs)
        if not disk and probe.list_missing(wanted) == wanted:
            return
        if disk:
            self.confidential.load_initdata(disk)
        kept = (
            {"cgroup": COMPONENTS_CGROUP, "record": f"{RUN_DIRECTORY}/components"} if self.supervised else {}
        )
        self.confidential.start_components(self._exits, self._group, **kept)

    def owners_policy(self) -> str | None:
        """What initdata has of it."""
        return self.confidential.policy if self._has("confidential") else None

    def check_confidential(self) -> None:
        """Raise why nothing may run in this guest."""
        if self._has("confidential"):
            self.confidential.check()

    def listen_for_streams(self) -> None:
        """Open the listener for the streams' own connections, if one is configured, or go on with that of an
        agent before this one. A failure is logged: everything else works without it."""
        if not self.config.passfd_listener:
            return
        from kata_agent.kept_listener import open_listener
        from kata_agent.processes import passed

        try:
            listener = open_listener(passed.LISTENER, self.config.passfd_listener, self._host, self._stored)
        except (OSError, ValueError) as error:
            self._report("no streams on connections of their own", error)
            return
        self._passed = passed.PassedConnections(listener, self._host, self.log, self._stored)

    async def load_module(self, name: str) -> None:
        """Load a module by its name or an alias of a device. Raises `AgentError`, `TimedOut`, `OSError`."""
        from kata_agent.guest import module

        await module.load(self._exits, name, ())

    @property
    def passed(self) -> PassedConnections | None:
        """Connections for streams that nobody has asked for yet; None where none are listened for."""
        return self._passed

    def watch_pressure(self) -> None:
        """Tell of pressure, if that is configured."""
        if self.config.pressure == "off":
            return
        from kata_agent.cgroups import pressure

        limits = pressure.parse_limits(self.config.pressure)
        self._pressure = pressure.PressureWatch(limits, tell=self._tell_pressure, report=self._report)

    @cached_property
    def flight(self) -> Flight:
        """The recorder of calls; supervised, the next agent reads it."""
        stored = self._stored.pop(flight.NAME, ())
        recorder = flight.open_flight(stored, self.life.number)
        if not stored:
            self._host.store(flight.NAME, (recorder.ring, recorder.crash))
        return recorder

    @cached_property
    def tracer(self) -> Tracer | None:
        """Spans of calls, if that is configured."""
        if not self.config.tracing:
            return None
        from kata_agent.tracing.export import Exporter
        from kata_agent.tracing.tracer import Tracer

        try:
            exporter = Exporter(self.config.trace_address, self._group, self.log)
        except ValueError as error:
            self._report("no tracing", error)
            return None
        return Tracer(exporter.put)

    def tell_last_end(self) -> None:
        """Open the recorder, and log what the agent before this one was doing when it ended."""
        recorder = self.flight
        if self.life.number == 1:
            return
        calls = [call for call in recorder.read() if call.life == self.life.number - 1]
        fields = {"reason": self.life.last_end, "calls": flight.describe(calls, LAST_CALLS)}
        if recorder.last_crash:
            fields["crash"] = recorder.last_crash
        self.log.error("root", "the agent before this one has ended", life=self.life.number - 1, **fields)

    def open_for_operators(self) -> None:
        """Open what operators read, where the settings ask for it."""
        config = self.config
        if config.log_listener or config.kernel_log or config.debug_console:
            from kata_agent.operators import Operators

            self.operators = Operators(self, self._host, self._stored)
        self.tell_last_end()
        self.log.forget_early()

    @property
    def exits(self) -> ExitBook:
        """Who ended how."""
        return self._exits

    def has_containers(self) -> bool:
        """Whether any container exists, without making the part that would know."""
        return self._has("containers") and bool(self.containers.ids())

    def has_devices(self) -> bool:
        """Whether any device was ever waited for."""
        return self._has("device_book")

    def has_copied(self) -> bool:
        """Whether the host has sent files."""
        return self._has("copier")

    def note_late(self, seconds: float) -> None:
        """The event loop did not turn for so long that PID 1 called this agent silent."""
        self.log.error("loop", "the event loop did not turn", seconds=f"{seconds:.1f}")
        self.events.emit("hung", text=f"the agent did not answer for {seconds:.1f} s")

    def note_lost_exits(self) -> None:
        """PID 1 had to drop exits, some since this was told last: processes ended, and nobody knows how."""
        from kata_agent.events import GAP

        hub, lost = self.events, self.life.lost_exits
        told = max((int(event.fields.get("exits", 0)) for event in hub.of_kind(GAP)), default=0)
        if lost > told:
            reason = f"PID 1's exit ledger was full: {lost - told} of the oldest exits are lost"
            self.log.error("supervisor", reason, since_boot=lost)
            hub.emit(GAP, first=hub.next + 1, end=hub.next + 1, reason=reason, exits=lost)

    def _tell_life(self) -> None:
        """Which agent goes on, and why."""
        life = self.life
        if life.number > 1:
            kind = "upgraded" if life.outcome == "upgraded" else "restarted"
            self.events.emit(kind, life=life.number, reason=life.last_end, code=life.code)
        if life.lost_exits:
            self.note_lost_exits()

    def note_failure(self, container_id: str, method: str, text: str) -> None:
        """A call has failed; those about a container are kept for `Why`."""
        if container_id:
            self.trail.note_failure(container_id, method, text)

    async def destroy(self) -> None:
        """Remove every container, then let the agent end once the replies are out. Raises the first failure."""
        if self._has("containers"):
            await self.containers.remove_all()
        if self._has("oom"):
            self.oom.close()
        self.log.info("sandbox", "sandbox destroyed")
        self.destroyed = True
        self.stopping.set()

    async def close(self) -> None:
        """Stand-alone: remove everything that this agent made. Failures are logged, the rest goes on."""
        if self._has("containers"):
            try:
                await self.containers.remove_all()
            except Exception as error:  # noqa: BLE001 - the end goes on
                self._report("containers could not be removed", error)
        if self._has("oom"):
            self.oom.close()
        if self._has("sandbox"):
            await self.sandbox.close()
        if self._has("confidential"):
            self.confidential.kill()
        if self._has("hotplug"):
            self.hotplug.close()
        if self._passed is not None:
            self._passed.close()
        if self.gate is not None:
            await self.gate.close()
        if self._pressure is not None:
            self._pressure.close()
        if self.operators is not None:
            self.operators.close()
        self.flight.close()

    async def adopt(self) -> None:
        """After a restart under PID 1: take over the sandbox and the containers that are there."""
        if self._stored or _has_state():
            self._tell_life()
            self.sandbox.adopt()
            self.snapshot.adopt()
            self.oom.adopt()
            await self.containers.adopt()
            await self.storages.sweep()

    def _find_guard(self) -> Confidential | None:
        from kata_agent.hub import probe

        there = self._has("confidential") or os.path.exists(probe.HUB_SOCKET)
        return self.confidential if there else None

    async def release_devices(self, container_id: str, recorded: dict[str, Any]) -> None:
        """Give back what a container had of devices, as its record tells."""
        from kata_agent.devices.attach import Attachment

        await self.devices.release(container_id, Attachment(**recorded))

    def _make_sharer(self) -> Sharer:
        from kata_agent.containers.shared_mount import Sharer

        return Sharer(self.worker, self.log)

    def _make_watcher(self) -> Watcher:
        from kata_agent.mounts.mirror.watcher import Watcher

        return Watcher(self._group, self.worker, self.log)

    def _tell_kill(self, kill: Kill) -> None:
        limit = kill.limit or "none: the guest itself has no memory left"
        fields = {"container-id": kill.container_id, "processes": kill.processes, "limit": limit}
        self.log.warning("cgroup", "out of memory: processes were killed", **fields)
        self.events.emit("oom", kill.container_id, kills=kill.processes, limit=kill.limit)

    def _tell_pressure(self, met: Met) -> None:
        self.events.emit(
            "pressure",
            met.container_id,
            resource=met.limit.resource,
            stall_us=met.limit.stall_us,
            window_us=met.limit.window_us,
            average=met.average,
            missed=met.missed,
        )

    def _has(self, part: str) -> bool:
        return part in self.__dict__

    def _note(self, container_id: str, text: str) -> None:
        self.log.info("container", text, **{"container-id": container_id})

    def _report(self, what: str, error: BaseException) -> None:
        from kata_agent import errors

        self.log.error("container", what, error=errors.describe(error))


def find_crun() -> str:
    """The jail: the static one that this repository built, else the image's, else the first in PATH."""
    build = os.path.join(os.path.dirname(__file__), "..", "..", "build", "crun")
    folders = os.environ.get("PATH", "/usr/sbin:/sbin").split(":")
    for path in (os.path.normpath(build), CRUN, *(f"{folder}/crun" for folder in folders)):
        if os.access(path, os.X_OK):
            return path
    return CRUN  # its absence is told by the first call that needs it


def _has_state() -> bool:
    """Whether an agent before this one left state files, which a fresh guest has not."""
    return os.path.isdir(RUN_DIRECTORY) and bool(os.listdir(RUN_DIRECTORY))
