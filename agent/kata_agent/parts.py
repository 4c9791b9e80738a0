"""What an agent is made of, each part made when it is first asked for.

Owns: who is handed what. Must not know: the wire, when an agent begins and ends (`agent`). A guest whose host only asks
for health never imports containers, mounts or anything else behind these properties.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
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
    from kata_agent.containers.settings import Settings
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
    from kata_agent.snapshot.understudy import Understudy
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


class Parts:
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

    def make_understudy(self) -> Understudy:
        """An agent to rehearse with, beside this one."""
        from kata_agent.snapshot.understudy import Understudy

        return Understudy(
            self.config, group=self._group, exits=self._exits, host=self._host, supervised=self.supervised
        )

    def has_sandbox(self) -> bool:
        """Whether there is a sandbox, without making the part that would know."""
        return self._has("sandbox") and self.sandbox.exists

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

        return ObservedContainers(
            self._place_containers(),
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

    def _place_containers(self) -> Settings:
        """Where containers' things are."""
        from kata_agent.containers.settings import Settings

        return Settings(
            crun_path=self.config.crun_path or find_crun(),
            base_dir=BASE_DIRECTORY,
            run_dir=RUN_DIRECTORY,
            container_pipe_size_bytes=self.config.container_pipe_size_bytes,
            exact_reads=self.supervised,
        )

    @cached_property
    def confidential(self) -> Confidential:
        """Initdata, guest components and the hub."""
        from kata_agent.hub.confidential import Confidential

        return Confidential(self.config, self.log, self.worker)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Do what nobody waits for; it must not raise."""
        self._group.create_task(work)

    async def load_module(self, name: str) -> None:
        """Load a module by its name or an alias of a device. Raises `AgentError`, `TimedOut`, `OSError`."""
        from kata_agent.guest import module

        await module.load(self._exits, name, ())

    @property
    def passed(self) -> PassedConnections | None:
        """Connections for streams that nobody has asked for yet; None where none are listened for."""
        return self._passed

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
