"""Making containers and processes: the steps of create and exec, each with its inverse.

Owns the order of the steps and the streams until a process has them. Must not know the registry.
Follows: Kata's agent, CreateContainer and ExecProcess.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kata_agent.containers import bundle
from kata_agent.containers.crun import Place
from kata_agent.processes.exits import exactly, since
from kata_agent.processes.stdio import Input, Output, Pipes
from kata_agent.processes.tty import ConsoleSocket, TerminalInput
from kata_linux import procfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kata_agent.containers.container import Container
    from kata_agent.containers.crun import Crun, Started, Stdio
    from kata_agent.containers.removal import Remover
    from kata_agent.containers.settings import Settings
    from kata_agent.containers.undo import Undo
    from kata_agent.processes.exits import ExitBook
    from kata_agent.processes.process import Process

    Launch = Callable[[Stdio, str], Awaitable[Started]]


class Launcher:
    """Starts containers' first processes and execs."""

    def __init__(self, settings: Settings, crun: Crun, exits: ExitBook, remover: Remover) -> None:
        self._settings = settings
        self._crun = crun
        self._exits = exits
        self._remover = remover
        self._consoles = 0

    async def create(self, container: Container, spec: dict[str, Any], root: str, undo: Undo) -> None:
        """From a reserved id and a spec for crun to a container whose init waits for `start`."""
        where = self._settings.bundle(container.id)
        bundle.make(where, root, undo)
        bundle.write_config(where, spec)
        process = container.add_process(container.id)
        undo.push("kill and remove what crun made", lambda: self._remover.clear(container))
        place = Place(self._settings.work(container.id), "init")
        arg0 = spec["process"]["args"][0]

        async def launch(stdio: Stdio, console: str) -> Started:
            return await self._crun.create(container.id, arg0, place, where, stdio, console)

        await self._start(process, launch, undo, terminal=spec["process"]["terminal"])

    async def exec(self, container: Container, process: Process, spec: dict[str, Any], undo: Undo) -> None:
        """Run a process in a container; when this returns it runs, or has run."""
        place = Place(self._settings.work(container.id), f"exec{process.number}")
        undo.push("kill the process", lambda: self._remover.kill(process))
        _write_json(place.file("json"), spec)

        async def launch(stdio: Stdio, console: str) -> Started:
            return await self._crun.exec(container.id, spec["args"][0], place, stdio, console)

        try:
            await self._start(process, launch, undo, terminal=spec["terminal"])
        finally:
            os.unlink(place.file("json"))

    async def _start(self, process: Process, launch: Launch, undo: Undo, *, terminal: bool) -> None:
        undo.push("close the streams", process.close)
        if terminal:
            await self._start_on_terminal(process, launch)
        else:
            await self._start_on_pipes(process, launch)

    async def _start_on_pipes(self, process: Process, launch: Launch) -> None:
        pipes = Pipes(self._settings.container_pipe_size_bytes)
        try:
            stdin, stdout, stderr = pipes.take_ours()
            process.attach_pipes(Input(stdin), Output(stdout), Output(stderr))
            started = await launch((pipes.theirs[0], pipes.theirs[1], pipes.theirs[2]), "")
        finally:
            pipes.close()
        self._follow(process, started)

    async def _start_on_terminal(self, process: Process, launch: Launch) -> None:
        self._consoles += 1
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            with ConsoleSocket(f"{self._settings.run_dir}/console{self._consoles}") as console:
                started = await launch((null, null, null), console.path)
                self._follow(process, started)
                master = console.take_master()
        finally:
            os.close(null)
        process.attach_terminal(TerminalInput(os.dup(master)), Output(master))

    def _follow(self, process: Process, started: Started) -> None:
        """A process may be over, and reaped, before its start time can be read."""
        try:
            target = exactly(procfs.read_start_time(started.pid))
        except (FileNotFoundError, ProcessLookupError):
            target = since(started.earliest_start_time)
        process.follow(started.pid, target, self._exits)


def _write_json(path: str, value: dict[str, Any]) -> None:
    import json  # not needed by an idle agent

    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(value))
