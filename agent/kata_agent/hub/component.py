"""Starts the guest components one after the other, and notices when one ends.

Owns: their processes. Must not know: what they do. A component is ready when its socket is there, of which inotify on
the socket's folder tells; the agent serves meanwhile, and only what needs the hub waits. None is started again: what it
held (keys, a session) is gone with it, so calls that need it are told how it ended.

Follows: Kata's agent 3.21, which sleeps a second before each look and serves nobody until all are there.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from typing import TYPE_CHECKING

from kata_agent.errors import AgentError, TimedOut, describe
from kata_agent.hub.plan import Component
from kata_agent.processes.exits import exactly
from kata_agent.processes.spawn import spawn
from kata_linux import inotify

if TYPE_CHECKING:
    from kata_agent.log import Log
    from kata_agent.processes.exits import ExitBook
    from kata_init.exits import Exit

READY_S = 30.0


class Components:
    """The processes of one plan. `record` is the file by which the next agent finds them, empty for none."""

    def __init__(
        self,
        plan: tuple[Component, ...],
        exits: ExitBook,
        log: Log,
        *,
        cgroup: str = "",
        record: str = "",
        ready_s: float = READY_S,
    ) -> None:
        """`cgroup` is a folder for their processes, so that they outlive the agent; empty for none."""
        self._plan = plan
        self._exits = exits
        self._log = log
        self._cgroup = cgroup
        self._record = record
        self._ready_s = ready_s
        self._running: dict[str, tuple[int, int]] = {}
        self._ended: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self._failure = ""
        self._task: asyncio.Task[None] | None = None

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Start them as a task of `group`; those that an agent before this one started are taken over."""
        if self._take_over():
            self._done.set()
        else:
            self._task = group.create_task(self._start_all())

    async def wait_ready(self) -> None:
        """Wait until all are there. Raises `AgentError` with why one is not."""
        await self._done.wait()
        if self._failure:
            raise AgentError(self._failure)

    def tell_end(self, name: str) -> str:
        """How this component ended; empty while it runs, and when it never did."""
        return self._ended.get(name, "")

    def stop_starting(self) -> None:
        """The agent ends; what runs goes on."""
        if self._task is not None:
            self._task.cancel()

    def kill(self) -> None:
        """Stand-alone: nobody is to use them after this agent."""
        import signal

        self.stop_starting()
        for pid, _ in self._running.values():
            os.kill(pid, signal.SIGKILL)

    async def _start_all(self) -> None:
        try:
            for component in self._plan:
                await self._start(component)
            self._log.info("confidential", "guest components are ready", names=" ".join(self._running))
        except (AgentError, OSError) as error:
            self._failure = describe(error)
            self._log.error("confidential", "guest components cannot be used", error=self._failure)
        finally:
            self._done.set()

    async def _start(self, component: Component) -> None:
        if component.socket:
            os.makedirs(os.path.dirname(component.socket), mode=0o755, exist_ok=True)
            _unlink(component.socket)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        fd = inotify.open_inotify()
        try:
            if component.socket:
                folder = os.path.dirname(component.socket)
                inotify.add_watch(fd, folder, inotify.IN_CREATE | inotify.IN_MOVED_TO)
            child = spawn(list(component.argv), (null, 1, 2), {**os.environ, **dict(component.env)})
            self._follow(component.name, child.pid, child.start_time)
            self._move(child.pid)
            self._note()
            if component.socket:
                await self._wait_for_socket(component, fd)
        finally:
            os.close(fd)
            os.close(null)

    async def _wait_for_socket(self, component: Component, fd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, self._changed.set)
        try:
            async with asyncio.timeout(self._ready_s):
                while not _is_socket(component.socket):
                    if ended := self.tell_end(component.name):
                        raise AgentError(f"{component.name} {ended} before it made {component.socket}")
                    self._changed.clear()
                    await self._changed.wait()
                    inotify.read_events(fd)
        except TimeoutError:
            text = f"{component.name}: waited {self._ready_s:g} s for it to make {component.socket}"
            raise TimedOut(text) from None
        finally:
            loop.remove_reader(fd)

    def _follow(self, name: str, pid: int, start_time: int) -> None:
        self._running[name] = (pid, start_time)

        def on_exit(entry: Exit) -> None:
            how = f"signal {entry.signal}" if entry.signal else f"status {entry.code}"
            self._ended[name] = f"ended with {how}"
            self._running.pop(name, None)
            self._changed.set()
            self._exits.release(pid, start_time)
            self._log.error("confidential", "guest component ended", name=name, how=how)

        self._exits.watch(pid, exactly(start_time), on_exit)

    def _move(self, pid: int) -> None:
        """Out of the agent's own group: who is found there by the next agent is ended."""
        if self._cgroup:
            os.makedirs(self._cgroup, exist_ok=True)
            with open(f"{self._cgroup}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(pid))

    def _note(self) -> None:
        """For the next agent."""
        if self._record:
            with open(f"{self._record}.new", "w", encoding="utf-8") as file:
                json.dump(self._running, file)
            os.rename(f"{self._record}.new", self._record)

    def _take_over(self) -> bool:
        """Whether an agent before this one started all of them. What it had only begun is ended and begun again."""
        try:
            with open(self._record or os.devnull, encoding="utf-8") as file:
                found = json.load(file)
        except (FileNotFoundError, ValueError):
            return False
        if all(component.name in found for component in self._plan):
            for name, (pid, start_time) in found.items():
                self._follow(name, pid, start_time)
            return True
        if self._cgroup:
            with open(f"{self._cgroup}/cgroup.kill", "w", encoding="ascii") as file:
                file.write("1")
        return False


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # none was left
