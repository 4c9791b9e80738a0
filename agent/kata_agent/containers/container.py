"""One container: what is known of it, and its processes by exec id.

Owns its state, its lock and its processes. Must not know the registry, nor how things are made or unmade.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kata_agent.cgroups.oom import Account
from kata_agent.containers import state
from kata_agent.errors import AlreadyExists, InvalidRequest, UnknownProcess
from kata_agent.processes.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

# Ended execs that were waited for are kept for later waits, the newest of them: a host that runs
# a health check every second must not fill the guest's memory.
KEPT_EXECS = 64
MAX_ID = 255
# A container's folder lies beside these.
RESERVED_IDS = ("shared", "sandbox", "image")


class Container:
    """Known from the moment its id is taken until it is removed."""

    def __init__(self, container_id: str) -> None:
        self.id = container_id
        self.state = state.CREATING
        self.lock = asyncio.Lock()
        self.cgroup = ""
        """Path of the cgroup below the hierarchy's root."""
        self.parents: tuple[str, ...] = ()
        """Groups above it that go with the last container below them, outermost first (`parents.py`)."""
        self.oom = Account()
        """Out-of-memory kills that were told."""
        self.process_spec: dict[str, Any] = {}
        self.hooks: dict[str, list[dict[str, Any]]] = {}
        self.annotations: dict[str, str] = {}
        self.storages: tuple[str, ...] = ()
        self.devices: dict[str, Any] = {}
        """What it has of devices, as the request said."""
        self.root_mounted = True
        """The root is a mount of ours, unless a storage is found to be mounted there."""
        self.shares_pids = False
        """Its pid namespace is the one that later containers of the sandbox may join."""
        self._starting = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._processes: dict[str, Process] = {}
        self._next_number = 0

    @property
    def init(self) -> Process:
        """The container's first process."""
        return self.process("")

    def advance(self, verb: str) -> None:
        """Enter the state that the verb leads to; WrongState when it is not allowed now."""
        self.state = state.plan_transition(self.id, verb, self.state)

    def process(self, exec_id: str) -> Process:
        """By exec id; both an empty one and the container's id mean init."""
        found = self._processes.get(exec_id or self.id)
        if found is None:
            raise UnknownProcess(self.id, exec_id)
        return found

    def processes(self) -> Iterator[Process]:
        """All that are known, init first."""
        return iter(tuple(self._processes.values()))

    def add_process(self, exec_id: str) -> Process:
        """Take the exec id; AlreadyExists when it is taken. Ended execs beyond the bound are let go."""
        if exec_id in self._processes:
            raise AlreadyExists(f"exec id {exec_id!r} already exists in container {self.id}")
        if "\0" in exec_id or len(exec_id.encode()) > MAX_ID:
            raise InvalidRequest(f"Invalid exec id {exec_id[:40]!r}: more than {MAX_ID} bytes or a NUL in it")
        process = Process(exec_id, self._next_number)
        self._next_number += 1
        self._processes[exec_id] = process
        return process

    def restore_process(self, exec_id: str, number: int) -> Process:
        """A process that an earlier run of the agent has added."""
        process = Process(exec_id, number)
        self._next_number = max(self._next_number, number + 1)
        self._processes[exec_id] = process
        return process

    def begin_start(self) -> None:
        """A process of this container is being started."""
        self._starting += 1
        self._idle.clear()

    def end_start(self) -> None:
        """It was, or it failed."""
        self._starting -= 1
        if not self._starting:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no process is being started."""
        await self._idle.wait()

    def drop_process(self, process: Process) -> None:
        """Forget a process; its streams are the caller's to close."""
        self._processes.pop(process.exec_id, None)

    def surplus(self) -> list[Process]:
        """Execs that ended, were waited for and are more than `KEPT_EXECS`, oldest first."""
        ended = [p for p in self._processes.values() if p.waited and p.exec_id != self.id]
        return ended[:-KEPT_EXECS] if len(ended) > KEPT_EXECS else []


def check_container_id(container_id: str) -> None:
    """Letters, digits, `.`, `-`, `_`, beginning with a letter or digit; at least two characters."""
    rest = container_id[1:].replace(".", "a").replace("-", "a").replace("_", "a")
    if not (container_id[:1].isalnum() and rest.isalnum() and len(container_id.encode()) <= MAX_ID):
        raise InvalidRequest(
            f"Invalid container id {container_id[:40]!r}: begin with a letter or digit, "
            "go on with letters, digits, `.`, `-`, `_`, two characters at least"
        )
    if container_id in RESERVED_IDS:
        raise InvalidRequest(f"Invalid container id {container_id!r}: the guest has a folder of that name")
