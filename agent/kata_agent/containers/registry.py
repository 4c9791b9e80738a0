"""The domain's face for containers: life cycle, processes and their streams.

Owns the map of containers, one entry each; there is no lock around the map, look-ups never wait. What changes a
container runs under that container's own lock. Must not know the wire: it takes and gives the OCI
dictionary, bytes, exits, and raises `kata_agent.errors` (or OSError). See docs/architecture.md, seam 3.
"""

from __future__ import annotations

import asyncio
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kata_agent.cgroups.apply import read_hugepage_sizes
from kata_agent.containers import adopt, cgroup, hooks, parents, process_spec, spec, state, statefile, sysctl
from kata_agent.containers.container import Container, check_container_id
from kata_agent.containers.crun import Crun
from kata_agent.containers.hooks import HookRunner
from kata_agent.containers.keep import PREFIX, Keeper, StreamKeeper
from kata_agent.containers.launch import Launcher
from kata_agent.containers.ports import ContainerRequest, Guard, Sandbox, Storages
from kata_agent.containers.removal import Remover
from kata_agent.containers.settings import Settings
from kata_agent.containers.undo import Undo, finish
from kata_agent.errors import (
    AgentError,
    AlreadyExists,
    NotSupported,
    TimedOut,
    UnknownContainer,
    WrongState,
    describe,
)
from kata_agent.processes import signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kata_agent.cgroups.oom import OomWatch
    from kata_agent.containers.controls import Controls
    from kata_agent.containers.sessions import Sessions
    from kata_agent.containers.shared_mount import Sharer
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.passed import PassedConnections
    from kata_agent.processes.process import Process
    from kata_init.exits import Exit

__all__ = ["ContainerRequest", "Containers", "Keeper", "Sandbox", "Settings", "Storages"]


SELINUX = "/sys/fs/selinux/enforce"


class Containers:
    """Every container of the sandbox; see docs/architecture.md, seam 3.

    Errors of all methods: InvalidRequest (id not valid, spec refused), UnknownContainer, UnknownProcess,
    AlreadyExists, WrongState, NotSupported, TimedOut, AgentError (crun's), OSError.
    An empty exec id and the container's id both name the container's init process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        group: asyncio.TaskGroup,
        exits: ExitBook,
        sandbox: Sandbox,
        storages: Storages,
        keeper: Keeper | None = None,
        passed: PassedConnections | None = None,
        stored: dict[str, tuple[int, ...]] | None = None,
        report: Callable[[str, BaseException], None] | None = None,
        note: Callable[[str, str], None] | None = None,
        oom: OomWatch | None = None,
        find_guard: Callable[[], Guard | None] = lambda: None,
        release_devices: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None,
        make_sharer: Callable[[], Sharer] | None = None,
    ) -> None:
        """`group` outlives every call and owns cleanup; `stored` are descriptors PID 1 handed back at start
        (names `container/...` are taken out of it); `report` hears of background failures,
        `note` of what else is worth a line: a container's id, and a text; `release_devices`
        gives back what a request said that a container has of devices, when it is removed."""
        self._settings = settings
        self._group = group
        self._exits = exits
        self._sandbox = sandbox
        self._storages = storages
        self._report = report or _ignore
        self._oom = oom
        self._find_guard = find_guard
        self._release_devices = release_devices
        self._make_sharer = make_sharer
        self._containers: dict[str, Container] = {}
        self._rollbacks: dict[str, asyncio.Task[Exception | None]] = {}
        """Removals of what the agent before this one left half-made or half-removed, while they go on: to hosts
        it is not there any more, and its id is free when they are over."""
        self._pid_namespace: str | None = None
        self._crun = Crun(settings.crun_path, settings.crun_root, exits, group)
        self._hooks = HookRunner(settings, exits, self._report, note or _ignore)
        self._remover = Remover(settings, self._crun, exits, self._hooks)
        self._streams = StreamKeeper(keeper if settings.exact_reads else None)
        self._launcher = Launcher(
            settings, self._crun, exits, self._remover, self._streams, self._hooks, passed
        )
        self._stored = stored if stored is not None else {}

    @cached_property
    def controls(self) -> Controls:
        """Limits, figures and pausing of containers."""
        from kata_agent.containers.controls import Controls

        return Controls(self._settings, self._crun, find=self._find, save=self._save)

    @cached_property
    def sessions(self) -> Sessions:
        """Output that can be read again."""
        from kata_agent.containers.sessions import Sessions

        return Sessions(self._streams, self._find, lambda: tuple(self._containers.values()))

    def process_of(self, container_id: str, exec_id: str) -> Process:
        """A process, by its container and exec id."""
        return self._process(container_id, exec_id)

    def ids(self) -> tuple[str, ...]:
        """Ids of the containers there are, oldest first."""
        return tuple(self._containers)

    def recorded_devices(self) -> tuple[dict[str, Any], ...]:
        """What containers have of devices, as their requests said."""
        return tuple(container.devices for container in self._containers.values() if container.devices)

    async def create(self, request: ContainerRequest) -> None:
        """Make the container and its init process, stopped before exec. All or nothing, also when cancelled."""
        container_id = request.container_id
        check_container_id(container_id)
        await self._wait_rolled_back(container_id)
        if container_id in self._containers:
            raise AlreadyExists(f"container {container_id} already exists")
        container = Container(container_id)
        container.devices = request.devices
        planned = self._plan(container, request)
        undo = Undo()
        self._containers[container_id] = container
        undo.push("forget the id", lambda: self._drop(container))
        await self._all_or_nothing(undo, self._create(container, request, planned, undo))

    async def start(self, container_id: str) -> None:
        """Let init run. WrongState when it was started before or is gone."""
        container = self._find(container_id)
        async with container.lock:
            state.plan_transition(container_id, "start", container.state)
            self._watch_memory(container)
            self._crun.release_init(container_id)
            container.advance("start")
            self._save(container)
            self._streams.release_start(container_id)
            await self._hooks.run(container, "poststart", state.RUNNING, container.init.pid)

    async def remove(self, container_id: str, timeout_s: float | None = None) -> None:
        """Kill what runs and undo everything; None or 0: no time limit of the caller's.

        TimedOut (text `ETIME`) after timeout_s; the removal goes on to its end in the background.
        """
        container = self._containers.get(container_id)
        if container is None:
            raise UnknownContainer(container_id)
        if not timeout_s:
            await finish(self._group, lambda: self._remove(container))
            return
        task = self._group.create_task(self._remove_reported(container))
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        if not done:
            raise TimedOut(f"ETIME: remove {container_id}: not done after {timeout_s:g} s; it goes on")
        error = task.result()
        if error is not None:
            raise error

    async def remove_all(self) -> None:
        """Remove every container, at once; raises a group of what failed after trying all."""
        tasks = [self._group.create_task(self._remove_reported(c)) for c in tuple(self._containers.values())]
        if tasks:
            await asyncio.wait(tasks)
        errors = [task.result() for task in tasks]
        # one that was being removed already is gone when its turn comes
        failed = [error for error in errors if error is not None and not isinstance(error, UnknownContainer)]
        if failed:
            raise ExceptionGroup("remove containers", failed)

    async def exec(
        self, container_id: str, exec_id: str, process: dict[str, Any], stream_ports: tuple[int, ...] = ()
    ) -> None:
        """Run another process in the container; a skeletal OCI process is completed from the container's own."""
        container = self._find(container_id)
        state.plan_transition(container_id, "exec", container.state)
        planned = process_spec.complete_exec(
            _translate_environment(container, process), container.process_spec
        )
        entry = container.add_process(exec_id)
        entry.stream_ports = stream_ports
        undo = Undo()
        undo.push("forget the exec id", lambda: container.drop_process(entry))
        container.begin_start()
        try:
            self._save(container)
            await self._all_or_nothing(undo, self._launcher.exec(container, entry, planned, undo))
        finally:
            container.end_start()
        surplus = container.surplus()
        for process_ in surplus:
            container.drop_process(process_)
        self._save(container)
        self._launcher.forget_pid_file(container, entry)
        for process_ in surplus:  # once no agent after this one looks for their exits
            process_.discard(self._exits)

    async def signal(self, container_id: str, exec_id: str, number: int) -> None:
        """Signal a process; an empty exec id means init and all of the container's cgroup. Gone is success."""
        container = self._find(container_id)
        process = container.process(exec_id)
        if process is container.init and process.exit is None and process.pid:
            number = signals.choose_signal(number, signals.read_status(process.pid))
        if process.exit is None and process.pid:
            signals.send_to_process(process.pid, process.start_time, number)
        if not exec_id and number:
            directory = self._settings.cgroup_root + container.cgroup
            signals.send_to_cgroup(directory, number, except_pid=process.pid)

    async def wait(self, container_id: str, exec_id: str) -> Exit:
        """Wait for the exit, any number of waiters, before and after it, until the container is removed."""
        return await self._process(container_id, exec_id).wait_exit()

    def read(self, container_id: str, exec_id: str, stream: str, limit: int) -> Any | Awaitable[Any]:
        """Read 1..limit bytes of "stdout" or "stderr": bytes when some wait, a PipeReply with `exact_reads`
        (whose `payload_head` the caller sets).

        Otherwise an awaitable of either. End of output raises EndOfOutput (text `read meet eof`), never b"".
        """
        return self._process(container_id, exec_id).output(stream).read(limit)

    async def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> int:
        """Write all of data before returning its length; b"" closes stdin."""
        return await self._process(container_id, exec_id).input().write(data)

    def close_stdin(self, container_id: str, exec_id: str) -> None:
        """End of input; on a terminal the end-of-file character. Twice is fine."""
        self._process(container_id, exec_id).input().end()

    def resize(self, container_id: str, exec_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size; NoTerminal without one."""
        self._process(container_id, exec_id).resize(rows, columns)

    async def adopt(self) -> None:
        """After an agent restart: go on with what the state files, stored descriptors and exits tell.

        What was half-made is rolled back, what was being removed is removed; failures of these are reported. One that
        takes long goes on behind the API: until it is over, a create of its id waits for it.
        """
        await adopt.end_strays()
        stored = {name: self._stored.pop(name) for name in list(self._stored) if name.startswith(PREFIX)}
        adopter = adopt.Adopter(self._settings, self._exits, self._streams, stored)
        for container in adopter.load():
            self._containers[container.id] = container
            self._storages.adopt(container.id, container.storages)
            if container.state in (state.CREATING, state.STOPPED):
                container.state = state.STOPPED
                self._roll_back(container)
                continue
            self.controls.settle(container)
            if container.state in (state.RUNNING, state.PAUSED):
                self._watch_memory(container)
            if container.shares_pids:
                self._pid_namespace = f"/proc/{container.init.pid}/ns/pid"
        self._streams.drop(tuple(stored), stored)
        if self._rollbacks:
            await asyncio.wait(self._rollbacks.values(), timeout=adopt.REMOVALS_WAIT_S)

    def _roll_back(self, container: Container) -> None:
        task = self._group.create_task(self._remove_reported(container))
        self._rollbacks[container.id] = task
        task.add_done_callback(lambda _: self._rollbacks.pop(container.id))

    async def _wait_rolled_back(self, container_id: str) -> None:
        if task := self._rollbacks.get(container_id):
            await asyncio.wait([task])

    def _find(self, container_id: str) -> Container:
        container = self._containers.get(container_id)
        if container is None or container_id in self._rollbacks:
            raise UnknownContainer(container_id)
        return container

    def _process(self, container_id: str, exec_id: str) -> Process:
        return self._find(container_id).process(exec_id)

    def _drop(self, container: Container) -> None:
        self._containers.pop(container.id, None)

    def _plan(self, container: Container, request: ContainerRequest) -> dict[str, Any]:
        """The spec for crun; everything that can be refused without touching anything is refused here."""
        linux = request.spec.get("linux") or {}
        self._check_guest(request.spec)
        container.cgroup = cgroup.plan_path(linux.get("cgroupsPath") or "", container.id)
        others = self._containers.values()
        container.parents = parents.plan_ours(self._settings.cgroup_root, container.cgroup, others)
        pid_path = spec.plan_pid_path(
            sandbox_pidns=request.sandbox_pidns, recorded=self._pid_namespace, others=bool(self._containers)
        )
        shared = spec.Shared(
            self._sandbox.ipc_path, self._sandbox.uts_path, pid_path, self._sandbox.guest_hooks
        )
        rootfs = f"{self._settings.bundle(container.id)}/rootfs"
        # hosts send a limit, mostly 0, for each size of huge pages that they have
        sizes = read_hugepage_sizes() if (linux.get("resources") or {}).get("hugepageLimits") else ()
        planned = spec.rewrite(request.spec, rootfs, container.cgroup, shared, sizes)
        container.process_spec = planned["process"]
        container.hooks = planned["hooks"]
        container.annotations = planned["annotations"]
        planned["hooks"] = hooks.plan_for_crun(container.hooks, self._settings.hook_report(container.id))
        container.shares_pids = not self._containers and self._pid_namespace is None
        return planned

    def _check_guest(self, request: dict[str, Any]) -> None:
        """What the kernel must have; crun would say less, or pass over it."""
        if (request.get("process") or {}).get("selinuxLabel") and not os.path.exists(SELINUX):
            raise NotSupported("process.selinuxLabel: the guest's kernel runs without SELinux, leave it out")

    async def _create(
        self, container: Container, request: ContainerRequest, planned: dict[str, Any], undo: Undo
    ) -> None:
        async with container.lock:
            os.makedirs(self._settings.work(container.id), mode=0o700)
            undo.push("remove our files", lambda: self._remover.remove_work(container))
            container.add_process(container.id).stream_ports = request.stream_ports
            self._save(container)
            undo.push("remove the bundle", lambda: self._remover.remove_bundle(container))
            guard = self._find_guard()
            if guard is not None:
                await guard.prepare_store(planned)
            if request.storages:
                container.storages = await self._storages.mount(container.id, request.storages)
                undo.push(
                    "release storages", lambda: self._storages.release(container.id, container.storages)
                )
                self._save(container)
            if guard is not None:
                await guard.unseal(planned)
            root = (request.spec.get("root") or {}).get("path") or ""
            undo.push("remove the cgroups above its own", lambda: self._remove_parents(container))
            resources = (request.spec.get("linux") or {}).get("resources") or {}
            parents.make_room(self._settings.cgroup_root, container.cgroup, resources)
            sysctl.write_guests(sysctl.split(request.spec.get("linux") or {})[1])
            await self._launcher.create(container, planned, root, undo)
            if request.shared_mounts and self._make_sharer is not None:
                sharer = self._make_sharer()
                await sharer.share(request.shared_mounts, container, self._containers.values())
            container.advance("created")
            self._save(container)
            if container.shares_pids:
                self._pid_namespace = f"/proc/{container.init.pid}/ns/pid"

    def _watch_memory(self, container: Container) -> None:
        """Tell of its out-of-memory kills; the sandbox's own container only waits."""
        if self._oom is not None and container.id != self._sandbox.sandbox_id:
            self._oom.arm(container.id, container.cgroup, container.oom, lambda: self._save(container))

    def _save(self, container: Container) -> None:
        """Let the next agent know, if there can be one."""
        if self._settings.exact_reads:
            statefile.save(container, self._settings.work(container.id))

    async def _all_or_nothing(self, undo: Undo, work: Awaitable[None]) -> None:
        """Do the work; on failure and on cancellation undo it first, to the end."""
        try:
            await work
        except BaseException as error:
            for what, failure in await finish(self._group, undo.unwind):
                error.add_note(f"and could not {what}: {failure}")
                self._report(what, failure)
            raise
        undo.keep()

    async def _remove(self, container: Container) -> None:
        async with container.lock:
            if self._containers.get(container.id) is not container:
                raise UnknownContainer(container.id)
            if container.state == state.CREATING:
                raise WrongState(f"failed to remove container {container.id}: it is {container.state}")
            container.advance("remove")
            if self._oom is not None:
                self._oom.disarm(container.id)
            self._save(container)
            self._streams.release_start(container.id)
            await self._remover.end(container)
            failed = await self._plan_undo(container).unwind()
            if failed:
                reasons = "; ".join(f"could not {what}: {describe(error)}" for what, error in failed)
                raise AgentError(f"remove {container.id}: {reasons}; ask again when that is mended")
            self._remover.remove_work(container)
            self._drop(container)

    def _plan_undo(self, container: Container) -> Undo:
        """What is left of a container whose processes are gone; every step is tried, the last one first."""
        undo = Undo()
        undo.push("remove the bundle", lambda: self._remover.remove_bundle(container))
        if container.devices and (release := self._release_devices) is not None:
            undo.push("give its devices back", lambda: release(container.id, container.devices))
        if container.storages:
            undo.push("release its storages", lambda: self._release_storages(container))
        undo.push("unmount its root", lambda: self._remover.unmount_root(container))
        undo.push("remove the cgroups above its own", lambda: self._remove_parents(container))
        undo.push("remove its cgroup", lambda: self._remover.clear(container))
        return undo

    def _remove_parents(self, container: Container) -> None:
        parents.remove(self._settings.cgroup_root, container, self._containers.values())

    async def _release_storages(self, container: Container) -> None:
        names, container.storages = container.storages, ()  # once: others may hold the same mounts
        await self._storages.release(container.id, names)

    async def _remove_reported(self, container: Container) -> Exception | None:
        """The removal as a task whose failure must not end the group."""
        try:
            await self._remove(container)
        except Exception as error:  # noqa: BLE001 - handed to the caller, or reported when that is gone
            self._report(f"remove {container.id}", error)
            return error
        return None


def _translate_environment(container: Container, process: dict[str, Any]) -> dict[str, Any]:
    """Host addresses of devices in an exec's environment become the guest's."""
    if not container.devices or not process.get("env"):
        return process
    from kata_agent.devices import environment

    if not environment.concerns(process["env"]):
        return process
    translated = environment.translate(process["env"], container.devices["pci"], container.id)
    return {**process, "env": translated}


def _ignore(_what: str, _told: object) -> None:
    """For who has no log."""
