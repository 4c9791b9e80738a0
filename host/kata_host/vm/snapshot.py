"""A snapshot of a machine that runs: brought to a halt, unplugged from what cannot be saved, saved, and on it goes.

Owns: the order, and that the machine goes on however it ends, also when nobody waits for the snapshot any more.
Must not know: who asks, how a machine is saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from kata_host.connect import open_caller
from kata_host.sandbox_service import SandboxService
from kata_host.vm import own_devices
from kata_host.vm.base import VmError
from kata_host.vm.plug import Monitor
from kata_host.vm.qemu import QemuVm
from kata_host.vm.saved import Saved, check_savable, resume, save
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import StatusError

DIAL_TIMEOUT_S = 10.0
GO_ON_TIMEOUT_S = 120.0

Note = Callable[[str], None]


class Snapshot:
    """One snapshot of one machine; `note` hears of each step."""

    def __init__(self, vm: QemuVm, note: Note) -> None:
        self._vm = vm
        self._note = note
        self._unplugged: list[str] = []

    async def take(self, folder: Path, *, freeze_filesystems: bool = False) -> Saved:
        """Take it. Raises `VmError`, StatusError of an agent that cannot halt; the machine goes on in every case."""
        check_savable(self._vm.config)
        monitor = Monitor(self._vm.qmp)
        own = await own_devices.find(monitor)
        if own_devices.SHARE in own:
            raise VmError(
                f"{self._vm.name}: its shared folder cannot be saved, and the guest would lose it in the middle of "
                "its work; use a machine without one"
            )
        await self._quiesce(freeze_filesystems=freeze_filesystems)
        standing = True

        async def go_on() -> None:
            nonlocal standing
            standing = False
            await self._go_on()

        try:
            for name in own:
                self._note(f"unplug {name}: it cannot be saved")
                self._unplugged.append(name)
                await own_devices.unplug(monitor, name)
            self._note("save")
            saved = await save(self._vm, folder, captured=go_on)
        except BaseException as exc:
            if standing:
                await self._go_on_after(exc)
            raise
        return saved

    async def _quiesce(self, *, freeze_filesystems: bool) -> None:
        self._note("bring the guest to a halt")
        request = pb.QuiesceRequest(freeze_filesystems=freeze_filesystems)
        async with await open_caller(self._vm.address, timeout_s=DIAL_TIMEOUT_S) as client:
            done = await SandboxService(client).quiesce(request)
        for step in done.steps:
            self._note(f"{step.name}: {step.note or 'done'} ({step.duration_us / 1000:.1f} ms)")

    async def _go_on_after(self, failure: BaseException) -> None:
        try:
            await self._go_on()
        except (VmError, StatusError, OSError, TimeoutError) as exc:
            cause = str(failure) or "the snapshot was taken back"
            raise VmError(f"{cause}; and {self._vm.name} could not go on after it: {exc}") from failure

    async def _go_on(self) -> None:
        """Plug again what was unplugged, and let the guest run."""
        async with asyncio.timeout(GO_ON_TIMEOUT_S):
            monitor = Monitor(self._vm.qmp)
            there = await own_devices.find(monitor)
            for name in self._unplugged:
                if name not in there:
                    await own_devices.plug(monitor, self._vm.vsock_args, name)
            report = await resume(self._vm)
        for step in report.steps:
            self._note(f"{step.name}: {step.note or 'done'} ({step.duration_us / 1000:.1f} ms)")
