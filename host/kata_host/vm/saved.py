"""Saving a machine and bringing copies of it back: `save`, `restore`, `resume`.

Owns: the order. A copy maps the saved memory privately (copy on write), so that copies share what none has changed;
one with a share or a vsock of vhost-user has all of it for itself, since those devices' processes map it, too.
Must not know: who saves, and what the guest does before (Quiesce) is its caller's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from kata_host.client import AgentClient
from kata_host.connect import open_caller
from kata_host.sandbox_service import SandboxService
from kata_host.vm import own_devices
from kata_host.vm.base import Timeline, VmConfig, VmError
from kata_host.vm.command_line import plan_cpu, plan_share
from kata_host.vm.finishing import run_in_thread
from kata_host.vm.guest_memory import copy_memory, load_memory, open_memory
from kata_host.vm.migration import read_state, write_state
from kata_host.vm.process import ChildFailed, run_while_alive
from kata_host.vm.qemu import QemuVm, Running, describing_failure, prepare, start
from kata_host.vm.saved_folder import Draft, Saved, open_draft, publish, read_saved
from kata_host.vm.versions import (
    Versions,
    VersionsDifferError,
    describe_qemu,
    find_differences,
    read_versions,
)
from kata_protocols.gen import health_pb2
from kata_protocols.gen import sandbox_pb2 as pb

__all__ = ["RANDOM_BYTES", "Saved", "read_saved", "restore", "resume", "save"]

RANDOM_BYTES = 512
RESUME_TIMEOUT_S = 60.0
_MIB = 1 << 20
_CALLS = 2
# What a copy may have of its own; all else is the hardware that the saved state belongs to.
_FREE = ("name", "share", "channel", "guest", "program", "boot_timeout_s", "accelerator")


async def save(vm: QemuVm, folder: Path, *, captured: Callable[[], Awaitable[None]] | None = None) -> Saved:
    """Save a machine whose guest was brought to a halt; it stands still afterwards, and may be closed or told to go on.

    `captured` is called as soon as the machine is not needed any more, before what was written is on the disk.
    Raises `VmError`, for a full disk too; then there is no folder and nothing half done.
    """
    assert vm.child is not None  # noqa: S101 - a machine that is handed out was started
    folder = Path(os.path.abspath(folder))  # noqa: ASYNC240 - asks no disk
    await check_savable(vm)
    try:
        with open_draft(folder) as draft:
            versions = await _read_versions(vm)
            await run_while_alive(_write(vm, draft), vm.child)
            if captured is not None:
                await captured()
            saved = Saved(folder, vm.config, versions, inside=vm.private_memory)
            await run_in_thread(lambda _: publish(draft, saved))
    except OSError as exc:
        raise VmError(f"{folder}: the machine cannot be saved there: {exc.strerror or exc}") from exc
    except ChildFailed as exc:
        raise VmError(f"{vm.name}: the machine ended while it was saved: {exc}") from exc
    return saved


@asynccontextmanager
async def restore(
    saved: Saved, config: VmConfig | None = None, *, paused: bool = False, timeline: Timeline | None = None
) -> AsyncIterator[QemuVm]:
    """A copy of a saved machine, which is gone when the context ends; `saved` is not changed and may be removed.

    `config` may have another name, share, program, time limit; its hardware is the saved one's. With `paused` nothing
    runs and nobody knows the copy until `resume`. Raises `VmError` and what `launch` raises.
    """
    config = plan_copy(saved, config)
    timeline = timeline or Timeline()
    async with AsyncExitStack() as stack:
        running = await prepare(config, timeline, stack)
        vm = running.vm
        late = f"{saved.folder} was not restored within {config.boot_timeout_s:g} s"
        async with describing_failure(vm, late):
            await _bring_back(saved, running, stack)
        async with vm.ending_with(running):
            if not paused:
                await resume(vm)
            yield vm


async def resume(vm: QemuVm, *, hostname: str = "", machine_id: str = "") -> pb.ResumedResponse:
    """Let a copy run: clock, random numbers and names are right before anybody else hears of it. The guest's report.

    `hostname` and `machine_id` (32 hexadecimal digits) are the copy's own, where it needs them. Raises `VmError`, and
    StatusError of the agent.
    """
    assert vm.child is not None  # noqa: S101 - it stands still, or runs
    await vm.execute("cont")
    vm.timeline.mark("running")
    try:
        async with asyncio.timeout(RESUME_TIMEOUT_S):
            report = await run_while_alive(_tell_resumed(vm, hostname, machine_id), vm.child)
    except ChildFailed as exc:
        raise VmError(f"{vm.name}: the machine ended when it was to go on: {exc}") from exc
    except (OSError, TimeoutError) as exc:
        raise VmError(f"{vm.name}: its agent did not answer after the restore: {exc}") from exc
    vm.timeline.mark("resumed", f"generation {report.generation.number}")
    vm.appear()
    return report


async def _tell_resumed(vm: QemuVm, hostname: str, machine_id: str) -> pb.ResumedResponse:
    if vm.config.channel == "vsock":
        await own_devices.wait_driven(vm, own_devices.VSOCK)
    async with await open_caller(vm.address, timeout_s=RESUME_TIMEOUT_S) as client:
        way_ns = await _measure_way(AgentClient(client))
        names = {"hostname": hostname, "machine_id": machine_id}
        given = secrets.token_bytes(RANDOM_BYTES)
        request = pb.ResumedRequest(random=given, time_ns=time.time_ns() + way_ns, **names)
        return await SandboxService(client).resumed(request)


async def _measure_way(client: AgentClient) -> int:
    """Nanoseconds that a call is under way to the guest, where it will read what time it is.

    The first call after a restore is no measure: an emulator translates the guest's code again.
    """
    for _ in range(_CALLS):
        started = time.monotonic_ns()
        await client.check(health_pb2.CheckRequest())
    return (time.monotonic_ns() - started) // 2


async def check_savable(vm: QemuVm) -> None:
    """VmError for a machine that QEMU cannot save or nobody could restore."""
    check_config(vm.config)
    if there := await own_devices.find_plugged(vm, vm.config):
        names = ", ".join(there)
        raise VmError(
            f"{vm.name}: {names} came after its start and would be missing in copies; unplug that first (`vm unplug`, "
            "or `vm snapshot --unplug`)"
        )


def check_config(config: VmConfig) -> None:
    """The same for what is known before. Pure."""
    if not config.savable:
        raise VmError("the machine was not started as one that can be saved (savable, `vm start --savable`)")
    if config.ksm:
        raise VmError("a machine whose pages the host may merge (--ksm) has no memory that could be saved")
    if config.disks:
        disks = ", ".join(str(disk) for disk in config.disks)
        raise VmError(f"the machine has disks ({disks}), whose content would not be saved with it")
    if config.memory_device_mib:
        raise VmError("the machine has a memory device (--memory-device), which is not saved")


def plan_copy(saved: Saved, config: VmConfig | None) -> VmConfig:
    """What the copy is started with. VmError when that is not the saved machine. Pure."""
    if config is None:
        return replace(saved.config, name=None, share=None)
    free = {name: getattr(config, name) for name in _FREE}
    if replace(saved.config, **free) != config:
        raise VmError(
            f"{saved.folder}: a copy has the hardware that was saved; only {', '.join(_FREE)} may differ"
        )
    return config


async def _write(vm: QemuVm, draft: Draft) -> None:
    assert vm.child is not None  # noqa: S101 - looked at by save
    size = vm.config.memory_mib * _MIB
    await vm.execute("stop")
    if vm.private_memory:
        os.ftruncate(draft.memory, size)
        await write_state(vm.qmp, draft.state, inside=True)
        return
    memory = open_memory(vm.child.pid, size)
    try:
        await write_state(vm.qmp, draft.state)
        await run_in_thread(lambda stopped: copy_memory(memory, draft.memory, stopped))
    finally:
        os.close(memory)


async def _bring_back(saved: Saved, running: Running, stack: AsyncExitStack) -> None:
    vm = running.vm
    if running.helpers:
        memory = stack.enter_context(await run_in_thread(lambda stopped: load_memory(saved.memory, stopped)))
        await start(running, stack, f"mem-path=/proc/self/fd/{memory.fileno()},share=on", (memory.fileno(),))
    else:
        vm.private_memory = True
        path = str(saved.memory.absolute()).replace(",", ",,")
        await start(running, stack, f"mem-path={path},share=off")
    assert vm.child is not None  # noqa: S101 - set by start
    if told := find_differences(saved.versions, await _read_versions(vm)):
        raise VersionsDifferError(f"{saved.folder}: cannot be restored here: {'; '.join(told)}", told)
    with saved.state.open("rb") as state:
        reading = read_state(vm.qmp, state.fileno(), inside=saved.inside)
        await run_while_alive(reading, vm.child, *running.helpers)
    await own_devices.plug(vm, running.vsock.qemu_args, own_devices.VSOCK)
    await own_devices.plug(vm, plan_share(vm.config, vm.folder), own_devices.SHARE)
    vm.timeline.mark("restored")


async def _read_versions(vm: QemuVm) -> Versions:
    qemu = describe_qemu(await vm.execute("query-version"))
    return read_versions(vm.config, vm.accelerator, plan_cpu(vm.config, vm.accelerator), qemu)
