"""A snapshot of a machine that runs: brought to a halt, saved, and on it goes.

Owns: the order, and that the machine goes on however it ends, also when nobody waits for the snapshot any more.
Must not know: who asks, how a machine is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kata_host.connect import open_caller
from kata_host.sandbox_service import SandboxService
from kata_host.vm.base import VmError
from kata_host.vm.finishing import finish
from kata_host.vm.own_devices import find_unpluggable
from kata_host.vm.plug import open_monitor
from kata_host.vm.qemu import QemuVm
from kata_host.vm.saved import Saved, check_config, check_savable, resume, save
from kata_host.vm.saved_folder import check_free
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import StatusError

DIAL_TIMEOUT_S = 10.0

Note = Callable[[str], None]


class Snapshot:
    """One snapshot of one machine; `note` hears of each step."""

    def __init__(self, vm: QemuVm, note: Note) -> None:
        self._vm = vm
        self._note = note
        self._standing = False

    async def take(self, folder: Path, *, freeze_filesystems: bool = False, unplug: bool = False) -> Saved:
        """Take it. Raises `VmError`, StatusError of an agent that cannot halt; the machine goes on in every case.

        With `unplug` it goes on without what was plugged since its start.
        """
        check_free(folder)
        if unplug:
            check_config(self._vm.config)
            await self._unplug()
        await check_savable(self._vm)

        async def go_on() -> None:
            self._standing = False
            await finish(self._go_on())

        try:
            await finish(self._quiesce(freeze_filesystems=freeze_filesystems))
            self._note("save")
            return await save(self._vm, folder, captured=go_on)
        except BaseException as exc:
            if self._standing:
                await finish(self._go_on_after(exc))
            raise

    async def _unplug(self) -> None:
        for name in await find_unpluggable(self._vm, self._vm.config):
            async with open_monitor(self._vm.qmp_socket) as monitor:
                await monitor.unplug(await monitor.recall(name))
            self._note(f"unplugged {name}: copies would miss it, and the machine goes on without it")

    async def _quiesce(self, *, freeze_filesystems: bool) -> None:
        self._note("bring the guest to a halt")
        request = pb.QuiesceRequest(freeze_filesystems=freeze_filesystems)
        async with await open_caller(self._vm.address, timeout_s=DIAL_TIMEOUT_S) as client:
            done = await SandboxService(client).quiesce(request)
        self._standing = True
        for step in done.steps:
            self._note(f"{step.name}: {step.note or 'done'} ({step.duration_us / 1000:.1f} ms)")

    async def _go_on_after(self, failure: BaseException) -> None:
        try:
            await self._go_on()
        except (VmError, StatusError, OSError, TimeoutError) as exc:
            cause = str(failure) or "the snapshot was taken back"
            raise VmError(f"{cause}; and {self._vm.name} could not go on after it: {exc}") from failure

    async def _go_on(self) -> None:
        report = await resume(self._vm)
        for step in report.steps:
            self._note(f"{step.name}: {step.note or 'done'} ({step.duration_us / 1000:.1f} ms)")
