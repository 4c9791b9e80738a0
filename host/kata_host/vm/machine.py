"""A QEMU machine that runs: what it tells of itself, its monitor, and its end with whatever it cannot do without.

Owns: `QemuVm`. Must not know: how a machine is started or brought back. Follows QEMU's QMP reference.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from qemu.qmp import QMPClient, QMPError

from kata_host.vm.base import Accelerator, Timeline, VmConfig, VmError
from kata_host.vm.diagnosis import find_cause
from kata_host.vm.doorbell import answer_rings
from kata_host.vm.logbound import bound_logs
from kata_host.vm.process import Child, ChildFailed, wait_first_end
from kata_host.vm.qmp import run_command
from kata_host.vm.serial import Serial
from kata_host.vm.state import VmState
from kata_host.vm.vsock import Vsock

Link = Vsock | Serial  # how the agent is reached

QUIT_TIMEOUT_S = 3.0
NOTICE_TIMEOUT_S = 2.0
"""For a process's end to be noticed, which may come after that of a connection to it."""


class QemuVm:
    """A running machine, as `kata_host.vm.base.Vm` describes it."""

    def __init__(
        self, config: VmConfig, state: VmState, accelerator: Accelerator, vsock: Link, timeline: Timeline
    ) -> None:
        self.config = config
        self.state = state
        self.name = state.name
        self.folder = state.path
        self.address = vsock.address
        self.vsock_kind = vsock.kind
        self.console = state.file("console.log")
        self.qmp_socket = state.file("qmp.sock")
        self.accelerator = accelerator
        self.timeline = timeline
        self.child: Child | None = None
        self.private_memory = False  # of a copy that shares with others what it has not changed
        self.plugged: dict[str, str] = {}  # by name, where the guest finds what was plugged with the start
        self._watch: asyncio.Task[str] | None = None
        self._ending = asyncio.Event()
        self._qmp: QMPClient = QMPClient(f"qemu {state.name}")

    def describe(self) -> dict[str, object]:
        """What `vm start --json` prints."""
        return {
            "name": self.name,
            "owner_pid": os.getpid(),
            "address": self.address,
            "console": str(self.console),
            "qmp": str(self.qmp_socket),
            "accelerator": self.accelerator.name,
            "accelerator_reason": self.accelerator.reason,
            "vsock": self.vsock_kind,
            "share": str(self.config.share) if self.config.share else None,
            "disks": [str(disk) for disk in self.config.disks],
            "nics": list(self.config.nics),
            "cpus": self.config.cpus,
            "max_cpus": self.config.max_cpus,
            "memory_mib": self.config.memory_mib,
            "image": self.config.image,
            "plugged": self.plugged,
        }

    async def open_control(self, connection: socket.socket) -> None:
        """Meet QEMU on its control monitor."""
        await self._qmp.connect(connection)

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Run a QMP command; QEMU's refusal is a VmError with its text."""
        return await run_command(self._qmp, command, arguments)

    @property
    def qmp(self) -> QMPClient:
        """The conversation with QEMU, for what is more than a command."""
        return self._qmp

    def appear(self) -> None:
        """Be listed: from now on others call the agent."""
        self.state.describe(self.describe())

    async def wait_exit(self) -> int:
        """Wait until QEMU has ended."""
        if self.child is None:
            raise VmError(f"{self.name}: was never started")
        return await self.child.wait()

    async def explain_loss(self, seen: Exception) -> VmError:
        """What to tell when the connection to the guest is gone: the machine's end, if that is why."""
        cause = str(seen)
        if self._watch is not None:
            try:
                async with asyncio.timeout(NOTICE_TIMEOUT_S):
                    await self._ending.wait()
            except TimeoutError:
                pass  # all of the machine goes on, and only the connection is gone
            else:
                cause = await asyncio.shield(self._watch)
        return VmError(f"the guest ended while it was used: {cause}")

    @asynccontextmanager
    async def ending_with(self, running: Running) -> AsyncIterator[None]:
        """End the machine with the first of its helpers: a guest without its share or its vsock would only hang.

        The doorbell is answered and the logs are bounded meanwhile.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._watch = group.create_task(self._end_with(*running.helpers))
                serving = (
                    group.create_task(answer_rings(running.bell, running.vsock.cid)),
                    group.create_task(bound_logs(self.folder)),
                )
                try:
                    yield
                finally:
                    self._watch.cancel()
                    for task in serving:
                        task.cancel()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def _end_with(self, *helpers: Child) -> str:
        """Why the machine has ended, once it has."""
        assert self.child is not None  # noqa: S101 - a machine is watched when it has booted
        dead = await wait_first_end(self.child, *helpers)
        self._ending.set()
        cause = await find_cause(self.child, self.console, ChildFailed(dead.describe_end()))
        await self.child.stop(grace_s=0)
        return cause

    async def close(self) -> None:
        """Tell QEMU to quit; its context ends it if it does not."""
        if self.child is None or self.child.returncode is not None:
            await self._disconnect()
            return
        try:
            async with asyncio.timeout(QUIT_TIMEOUT_S):
                await self._qmp.execute("quit")
                await self.child.wait()
        except (QMPError, TimeoutError, OSError, EOFError):
            pass  # a QEMU that cannot answer is ended by its context, right after
        await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            await self._qmp.disconnect()
        except (QMPError, OSError, EOFError):
            pass  # the other side went first; disconnect reports the reason of that, not a failure of its own


@dataclass(frozen=True)
class Running:
    """A machine, the processes that it cannot do without, its vsock, and where it rings."""

    vm: QemuVm
    helpers: list[Child]
    vsock: Link
    bell: socket.socket
    doorbell: str
