"""Says why a machine ended or did not boot, from what its processes and its console left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kata_host.vm.again import is_emulator_fault
from kata_host.vm.base import BootFailed, EmulatorFault, Vm
from kata_host.vm.console import find_panic, read_console
from kata_host.vm.process import Child, read_tail

CAUSE_TIMEOUT_S = 1.0
_VMM_LINES = 5


async def find_cause(vmm: Child | None, console: Path, seen: Exception) -> str:
    """What ended first: a machine's helpers and connections end as soon as its VMM, and may be noticed before it."""
    if vmm is None:
        return str(seen)
    try:
        async with asyncio.timeout(CAUSE_TIMEOUT_S):
            code = await vmm.wait()
    except TimeoutError:
        return str(seen)
    if code != 0:
        return vmm.describe_end()
    return find_panic(console) or "the machine powered off, restarted, or was told to quit"


def describe_boot_failure(vm: Vm, vmm_log: Path, reason: str) -> BootFailed:
    """The error for people: the reason, how far it came, how it ran, and the last lines of everybody."""
    console = read_console(vm.console)
    said = f"the console's last lines were:\n{console}" if console else "the console stayed empty"
    seen = vm.timeline.stamps[-1].event if vm.timeline.stamps else "nothing"
    vmm = "" if "qemu" in reason else read_tail(vmm_log, _VMM_LINES)
    kind = EmulatorFault if is_emulator_fault(vm.accelerator.name, reason, vm.timeline) else BootFailed
    return kind(
        f"the guest did not boot: {reason} (last seen: {seen}, running under {vm.accelerator.name}: "
        f"{vm.accelerator.reason}); {said}" + (f"\nqemu said:\n{vmm}" if vmm else "")
    )
