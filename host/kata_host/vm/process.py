"""Owns the processes a virtual machine is made of: start, wait, stop.

A child lives in its own process group, so that a terminal's Ctrl-C reaches only this tool, and carries a
parent-death signal, so that it ends even when this tool is killed with SIGKILL. What it prints goes to a file.
Follows prctl(2) PR_SET_PDEATHSIG and pidfd_open(2). Must not know what the processes are for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

STOP_GRACE_S = 2.0
KILL_DEADLINE_S = 5.0

# `setpriv` sets the death signal without running Python between fork and exec. The shell then looks whether the
# parent died before the signal was set: such a child would otherwise live for ever.
_TIED_TO_PARENT = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--",
    "sh",
    "-c",
    '[ "$PPID" = "$0" ] || exit 125; exec "$@"',
)


T = TypeVar("T")


class ChildFailed(Exception):
    """A helper process ended, or could not be started; the text says which one and shows its last lines."""


class Child(AbstractAsyncContextManager["Child"]):
    """One running process and everything in its process group; leaving the context ends them all.

    The kernel sends the parent-death signal when the thread that started the child ends, so start children from a
    thread that lives as long as they should.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, pass_fds: Sequence[int] = ()) -> None:
        self.name = name
        self.log = log
        self._ended = asyncio.Event()
        command = [*_TIED_TO_PARENT, str(os.getpid()), *argv]
        with log.open("ab") as output:
            try:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=tuple(pass_fds),
                    process_group=0,
                )
            except OSError as exc:
                raise ChildFailed(f"{name}: cannot start {command[0]}: {exc.strerror}") from exc
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._note_end)

    @property
    def pid(self) -> int:
        """The process's id, which is its process group's too."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status once it has been reaped; negative for a signal."""
        return self._popen.returncode

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._signal_group(signal.SIGKILL)  # still unreaped: the group's number cannot belong to anybody else
        self._popen.wait()
        self._ended.set()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            pass  # the whole group has gone already, which is what the signal was for

    async def wait(self) -> int:
        """Wait until the process has ended and has been reaped; its return code as in `subprocess`."""
        await self._ended.wait()
        return self._popen.returncode

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ask the group to end, then kill it."""
        if self._ended.is_set():
            return
        try:
            if grace_s > 0:
                self._signal_group(signal.SIGTERM)
                async with asyncio.timeout(grace_s):
                    await self._ended.wait()
        except TimeoutError:
            pass  # it had its time; the kill below is the answer
        finally:
            if not self._ended.is_set():
                self._signal_group(signal.SIGKILL)
        async with asyncio.timeout(KILL_DEADLINE_S):
            await self._ended.wait()

    def read_tail(self, lines: int = 8) -> str:
        """The last lines it printed."""
        return read_tail(self.log, lines)

    def describe_end(self) -> str:
        """How it ended, with its last words."""
        code = self._popen.returncode
        if code is None:
            how = "still runs"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"exited with {code}"
        tail = self.read_tail()
        return f"{self.name} {how}" + (f":\n{tail}" if tail else " and printed nothing")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def wait_first_end(*children: Child) -> Child:
    """The first of `children` that ends."""
    async with asyncio.TaskGroup() as group:
        ends = [group.create_task(child.wait()) for child in children]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        first = next(child for child, end in zip(children, ends, strict=True) if end.done())
        for end in ends:
            end.cancel()
    return first


async def run_while_alive(work: Coroutine[Any, Any, T], *children: Child) -> T:
    """The result of `work`, or ChildFailed as soon as one of `children` ends before it."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            ends = [group.create_task(child.wait()) for child in children]
            await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
            dead = [child for child, end in zip(children, ends, strict=True) if end.done()]
            for end in ends:
                end.cancel()
            if not task.done():
                task.cancel()
                raise ChildFailed(dead[0].describe_end())
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return task.result()


def read_tail(path: Path, lines: int) -> str:
    """The last `lines` lines of a text file, or nothing when it is not there; at most 64 KiB are read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(kept[-lines:])
