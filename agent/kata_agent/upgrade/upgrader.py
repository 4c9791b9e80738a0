"""The agent's side of its own upgrade: have the other code looked at, then hand over.

Owns the folders of code and the order: nothing of this agent changes before the other code has said that it can take
over. Must not know the wire. Follows decision 0042.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kata_agent.errors import AgentError, InvalidRequest, NotFound, NotSupported, TimedOut, WrongState
from kata_agent.processes.spawn import spawn
from kata_agent.upgrade import prepare
from kata_agent.version import STATE_VERSION
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.life import Life
    from kata_agent.log import Log
    from kata_agent.processes.exits import ExitBook
    from kata_agent.worker import Worker

CHECK_S = 120.0
"""The other code is compiled meanwhile: seconds under emulation."""
KILL_S = 10.0
CODE_LIMIT_BYTES = 64 << 20
SAID_LIMIT_BYTES = 16384
DRAIN_MS = 5_000
READY_MS = 20_000
LONGEST_MS = 600_000


class Init(Protocol):
    """PID 1."""

    def upgrade(self, code: str, drain_ms: int, ready_ms: int) -> None:
        """Start the next agent from this folder, when the one that runs has ended."""


class Checked(Record):
    """Code that can take over: the folder it was copied to, and what it says it is."""

    code: str
    version: str


class Upgrader:
    """One upgrade at a time."""

    def __init__(
        self, init: Init | None, life: Life, exits: ExitBook, log: Log, worker: Worker, run_dir: str
    ) -> None:
        """Without a PID 1 of ours nobody would start another agent."""
        self._init = init
        self._life = life
        self._exits = exits
        self._log = log
        self._worker = worker
        self._run_dir = run_dir
        self._busy = False
        self._tries = 0
        self.drain_ms = 0
        """How long calls in flight have, once the next agent is wanted."""

    async def check(self, source: str) -> Checked:
        """Copy the code of this folder or zip archive, and have it say that it can take over.

        Raises `WrongState` with its reasons when it cannot; this agent goes on either way.
        """
        if self._init is None:
            raise NotSupported("upgrade: this agent has no PID 1 that would start the other one")
        if self._busy or self.drain_ms:
            raise WrongState("upgrade: another one is under way")
        _check_source(source)
        self._busy = True
        try:
            return await self._check(source)
        finally:
            self._busy = False

    def hand_over(self, checked: Checked, drain_ms: int = 0, ready_ms: int = 0) -> None:
        """From here on there is no way back: PID 1 starts the other code when this agent has ended."""
        drain_ms = min(drain_ms or DRAIN_MS, LONGEST_MS)
        ready_ms = min(ready_ms or READY_MS, LONGEST_MS)
        assert self._init is not None  # noqa: S101 - `check` has refused
        self._init.upgrade(checked.code, drain_ms + int(KILL_S * 1000), ready_ms)
        self.drain_ms = drain_ms
        self._log.info("upgrade", "hands over to another agent", code=checked.code, version=checked.version)

    async def _check(self, source: str) -> Checked:
        self._tries += 1
        folder = f"{self._run_dir}/code"
        target = f"{folder}/{self._life.number}.{self._tries}"
        await self._worker.run(partial(clear_codes, folder, self._life.code))
        paths = ":".join(path for path in sys.path if path and path != self._life.code)
        words = [
            *(sys.executable, "-I", "-S", *(["-" + "O" * sys.flags.optimize] if sys.flags.optimize else [])),
            *(prepare.__file__, source, target, str(CODE_LIMIT_BYTES), paths),
            *(self._run_dir, str(STATE_VERSION), str(self._life.control_version)),
        ]
        status, said = await self._run(words)
        if status == 0:
            return Checked(target, said)
        await self._worker.run(partial(remove_tree, target))
        if status == prepare.REFUSED:
            raise WrongState(
                f"upgrade to {source} is refused, this agent goes on: {'; '.join(said.splitlines())}"
            )
        raise AgentError(f"upgrade: looking at {source} ended with {status}: {said[-500:]}")

    async def _run(self, words: list[str]) -> tuple[int, str]:
        """The program's exit status and what it said; killed when it takes too long or nobody waits any more."""
        said = os.memfd_create("said", os.MFD_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            child = spawn(words, (null, said, said))
            try:
                async with asyncio.timeout(CHECK_S):
                    ended = await self._exits.wait_exit(*child)
            except BaseException as error:
                await self._exits.end(child, KILL_S)
                if isinstance(error, TimeoutError):
                    raise TimedOut(
                        f"upgrade: the other code was not looked at within {CHECK_S:g} s"
                    ) from None
                raise
            return ended.status, os.pread(said, SAID_LIMIT_BYTES, 0).decode(errors="replace").strip()
        finally:
            os.close(null)
            os.close(said)


def clear_codes(folder: str, used: str) -> None:
    """Remove every copy of code but the one that this agent runs from."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if f"{folder}/{name}" != used:
            remove_tree(f"{folder}/{name}")


def remove_tree(path: str) -> None:
    """A folder of our own making, with all that is in it; none is fine."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(f"{folder}/{name}")
        for name in folders:
            os.rmdir(f"{folder}/{name}")
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass  # it was never made


def _check_source(source: str) -> None:
    if not source.startswith("/") or "\0" in source:
        raise InvalidRequest(f"upgrade: {source!r} is no absolute path in the guest")
    if not os.path.exists(source):
        raise NotFound(f"upgrade: {source} is not there in the guest; copy it there first")
