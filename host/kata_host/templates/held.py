"""A machine that stands still in a process of its own, seen from the pool: started, watched, handed over, ended.

Owns: that process and its two pipes. The process (`kata_host.templates.keeper`) reads its order from its standard
input, says on its standard output that the machine stands still, and waits for the word to go on. Who holds the pipes
holds the machine: they are handed over as descriptors, and when the first ends, however it comes, the machine ends.
Must not know: what an order says.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kata_host.vm.base import VmError
from kata_host.vm.process import read_tail
from kata_host.vm.report import read_report

COMMAND = (sys.executable, "-m", "kata_host.templates.keeper")
START_TIMEOUT_S = 120.0
GO_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


async def go_on(name: str, pipes: tuple[int, int], order: Mapping[str, object]) -> dict[str, object]:
    """Tell the keeper that has these pipes to let its machine go on; the machine's description. Raises `VmError`."""
    order_fd, report_fd = pipes
    try:
        os.write(order_fd, json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(GO_TIMEOUT_S):
            return await read_report(report_fd, f"{name}: its keeper ended without a word")
    except BrokenPipeError:
        raise VmError(f"{name}: it has ended while it stood still") from None
    except TimeoutError:
        raise VmError(f"{name}: it does not go on within {GO_TIMEOUT_S:g} s") from None


class HeldVm:
    """A keeper whose machine stands still. It is in a session of its own: a Ctrl-C is not for it."""

    def __init__(self, order: str, log: Path, command: Sequence[str] = COMMAND) -> None:
        self.name = ""
        self._log = log
        self._ended = asyncio.Event()
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                cwd="/",
            )
        assert self._popen.stdin is not None and self._popen.stdout is not None  # noqa: S101, PT018 - asked for
        self.pipes = (self._popen.stdin.fileno(), self._popen.stdout.fileno())
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._note_end)
        self._order = order

    @classmethod
    async def start(cls, order: str, log: Path, command: Sequence[str] = COMMAND) -> HeldVm:
        """One that stands still. Raises `VmError`, OSError; then nothing is left of it."""
        held = cls(order, log, command)
        try:
            with suppress(BrokenPipeError):  # its report tells why
                os.write(held.pipes[0], order.encode() + b"\n")
            async with asyncio.timeout(START_TIMEOUT_S):
                report = await read_report(held.pipes[1], f"its keeper ended without a word; see {log}")
            held.name = str(report["held"])
        except TimeoutError:
            await held.close()
            raise VmError(f"a restore was not done in {START_TIMEOUT_S:g} s") from None
        except BaseException:
            await held.close()
            raise
        return held

    @property
    def pid(self) -> int:
        """The keeper's."""
        return self._popen.pid

    async def wait_end(self) -> str:
        """Wait for the keeper's end; its last words."""
        await self._ended.wait()
        said = read_tail(self._log, 3)
        return f"its keeper exited with {self._popen.returncode}" + (f": {said}" if said else "")

    async def go_on(self, order: Mapping[str, object]) -> dict[str, object]:
        """Let it go on, kept by its keeper alone from now on; its description. Raises `VmError`."""
        try:
            report = await go_on(self.name, self.pipes, order)
        except BaseException:
            await self.close()
            raise
        self.let_go()
        self._popen.returncode = 0  # it stays; nobody here waits for it
        return report

    def let_go(self) -> None:
        """Close our ends of the pipes: whoever has got the others has the machine, and nobody if there are none."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None  # noqa: S101 - asked for
            if not pipe.closed:
                pipe.close()

    async def close(self) -> None:
        """End it: by the end of its input, else by force."""
        self.let_go()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            self._popen.kill()  # the kernel kills what a machine is made of with its keeper
            await self._ended.wait()

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._popen.wait()
        self._ended.set()
