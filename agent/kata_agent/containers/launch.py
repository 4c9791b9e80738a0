"""Making containers and processes: the steps of create and exec, each with its inverse.

Owns the order of the steps and the streams until a process has them. Must not know the registry.
Follows: Kata's agent, CreateContainer and ExecProcess.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kata_agent.containers import bundle, cgroup, hooks, user
from kata_agent.containers.crun import Place
from kata_agent.errors import NotSupported, WrongState
from kata_agent.processes.exits import exactly, since
from kata_agent.processes.stdio import Pipes
from kata_agent.processes.tty import ConsoleSocket
from kata_linux import cgroupfs, procfs

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from kata_agent.containers.container import Container
    from kata_agent.containers.crun import Crun, Started, Stdio
    from kata_agent.containers.hooks import HookRunner
    from kata_agent.containers.keep import StreamKeeper
    from kata_agent.containers.removal import Remover
    from kata_agent.containers.settings import Settings
    from kata_agent.containers.undo import Undo
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.passed import PassedConnections
    from kata_agent.processes.process import Process

    Connections = list[socket.socket | None]
    Launch = Callable[[Stdio, str], Awaitable[Started]]


class Launcher:
    """Starts containers' first processes and execs."""

    def __init__(
        self,
        settings: Settings,
        crun: Crun,
        exits: ExitBook,
        remover: Remover,
        streams: StreamKeeper,
        hook_runner: HookRunner,
        passed: PassedConnections | None = None,
    ) -> None:
        self._settings = settings
        self._crun = crun
        self._exits = exits
        self._remover = remover
        self._streams = streams
        self._passed = passed
        self._hooks = hook_runner
        self._consoles = 0

    async def create(self, container: Container, spec: dict[str, Any], root: str, undo: Undo) -> None:
        """From a reserved id and a spec for crun to a container whose init waits for `start`."""
        where = self._settings.bundle(container.id)
        if cgroup.is_populated(self._settings.cgroup_root + container.cgroup):
            raise WrongState(
                f"create {container.id}: cgroup {container.cgroup} is in use by others; an agent without PID 1 that "
                "was killed leaves its containers running: write 1 to that group's cgroup.kill, or take another id"
            )
        # A group that a killed agent has left has its device program still, and crun cannot attach another (EEXIST).
        cgroupfs.remove(self._settings.cgroup_root + container.cgroup)
        undo.push(f"unmount the root of {container.id}", lambda: self._remover.unmount_root(container))
        container.root_mounted = bundle.make(where, root)
        _resolve_user(spec["process"], f"{where}/rootfs")
        self._hooks.prepare(container)
        bundle.write_config(where, spec)
        process = container.init
        undo.push("end its hooks", lambda: self._hooks.end_guards(container))
        undo.push("kill and remove what crun made", lambda: self._remover.clear(container))
        place = Place(self._settings.work(container.id), "init")
        arg0 = spec["process"]["args"][0]

        async def launch(stdio: Stdio, console: str) -> Started:
            return await self._crun.create(
                container.id, arg0, place, where, stdio, console, hooks_s=hooks.sum_limits(container.hooks)
            )

        try:
            await self._start(container, process, launch, undo, terminal=spec["process"]["terminal"])
        finally:
            self._hooks.tell(container)
        undo.push("let go of the start fifo", lambda: self._streams.release_start(container.id))
        self._streams.hold_start(container.id, self._crun.fifo(container.id))

    async def exec(self, container: Container, process: Process, spec: dict[str, Any], undo: Undo) -> None:
        """Run a process in a container; when this returns it runs, or has run."""
        place = Place(self._settings.work(container.id), f"exec{process.number}")
        undo.push("kill the process", lambda: self._remover.kill(process))
        _resolve_user(spec, f"/proc/{container.init.pid}/root")
        bundle.write_json(place.file("json"), spec)

        async def launch(stdio: Stdio, console: str) -> Started:
            score = spec["oomScoreAdj"]
            return await self._crun.exec(
                container.id, spec["args"][0], place, stdio, console, oom_score=score
            )

        try:
            await self._start(container, process, launch, undo, terminal=spec["terminal"])
        finally:
            os.unlink(place.file("json"))

    def forget_pid_file(self, container: Container, process: Process) -> None:
        """The state file names the process now. Before that the pid file tells the next agent that it runs."""
        Place(self._settings.work(container.id), f"exec{process.number}").remove("pid")

    async def _start(
        self, container: Container, process: Process, launch: Launch, undo: Undo, *, terminal: bool
    ) -> None:
        undo.push("close the streams", lambda: process.discard(self._exits))
        process.terminal = terminal
        connections = await self._take_connections(process.stream_ports)
        try:
            start = self._start_on_terminal if terminal else self._start_on_pipes
            await start(container, process, launch, connections)
        finally:
            for connection in connections:  # those that no stream has taken
                if connection is not None:
                    connection.close()
            if self._passed is not None:
                self._passed.forget(process.stream_ports)

    async def _take_connections(self, ports: tuple[int, ...]) -> Connections:
        if not ports:
            return []
        if self._passed is None:
            raise NotSupported(
                f"stream ports {ports}: this guest does not listen for them, start it with agent.passfd_listener_port"
            )
        return await self._passed.take(ports)

    async def _start_on_pipes(
        self, container: Container, process: Process, launch: Launch, connections: Connections
    ) -> None:
        pipes = Pipes(self._settings.container_pipe_size_bytes)
        try:
            if connections:
                pipes.replace_theirs(tuple(connection is None for connection in connections))
                self._streams.attach_own_pipes(process, container.id, pipes.take_ours(), connections)
            else:
                self._streams.attach_pipes(process, container.id, pipes.take_ours())
            stdin, stdout, stderr = pipes.theirs
            started = await launch((stdin, stdout, stderr), "")
        finally:
            pipes.close()
        self._follow(process, started)

    async def _start_on_terminal(
        self, container: Container, process: Process, launch: Launch, connections: Connections
    ) -> None:
        self._consoles += 1
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            with (
                ConsoleSocket(f"{self._settings.run_dir}/console{self._consoles}") as console,
                self._streams.hold_console(process, container.id, console.fileno()),
            ):
                self._follow(process, await launch((null, null, null), console.path))
                if connections:
                    master = console.take_master()
                    self._streams.attach_own_terminal(process, container.id, master, connections)
                else:
                    self._streams.attach_terminal(process, container.id, console.take_master())
        finally:
            os.close(null)

    def _follow(self, process: Process, started: Started) -> None:
        """A process may be over, and reaped, before its start time can be read."""
        try:
            target = exactly(procfs.read_start_time(started.pid))
        except (FileNotFoundError, ProcessLookupError):
            target = since(started.earliest_start_time)
        process.follow(started.pid, target, self._exits)


def _resolve_user(process: dict[str, Any], root: str) -> None:
    """Names of users that a host sent beside the spec are numbers of the container's own files."""
    names = process.pop(user.KEY, None)
    if names:
        process["user"] = user.resolve(user.Names(*names), process["user"], root)
