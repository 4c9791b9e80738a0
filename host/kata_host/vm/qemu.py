"""The QEMU machine's start: what it needs around it, the launch until the agent is ready, the end of all that.

`launch` brings up folder, channel, share and doorbell, starts QEMU, and takes everything down again however it ends;
`prepare` and `start` are its two halves, of which a machine that is brought back (`kata_host.vm.saved`) needs others.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace

from qemu.qmp import QMPError

from kata_host.vm.accel import choose_accelerator, wants_one_thread
from kata_host.vm.again import boot_with_second_try
from kata_host.vm.base import Timeline, VmConfig, VmError
from kata_host.vm.command_line import plan_command
from kata_host.vm.diagnosis import describe_boot_failure, find_cause
from kata_host.vm.doorbell import AGENT_READY, PID1_UP, iterate_rings
from kata_host.vm.ksm import check_ksm
from kata_host.vm.machine import Link, QemuVm, Running
from kata_host.vm.process import Child, ChildFailed, run_while_alive
from kata_host.vm.root_image import find_root
from kata_host.vm.serial import Serial
from kata_host.vm.state import make_private, open_state
from kata_host.vm.virtiofs import serve_share
from kata_host.vm.vsock import has_vsock, open_vsock

__all__ = ["QemuVm", "Running", "describing_failure", "launch", "prepare", "start"]

QEMU_LOG = "qemu.log"


@asynccontextmanager
async def launch(config: VmConfig, timeline: Timeline | None = None) -> AsyncIterator[QemuVm]:
    """Boot a machine and hand it out when its agent is ready; nothing of it is left when the context ends.

    `timeline` may be given by a caller that wants to hear of the steps as they happen.
    """
    _check(config)
    disks = tuple(disk.absolute() for disk in config.disks)
    config = replace(config, share=config.share and config.share.absolute(), disks=disks)
    timeline = timeline or Timeline()
    async with AsyncExitStack() as stack:
        running = await boot_with_second_try(
            lambda attempt: _boot(config, timeline, attempt), stack, timeline
        )
        async with running.vm.ending_with(running):
            yield running.vm


async def _boot(config: VmConfig, timeline: Timeline, stack: AsyncExitStack) -> Running:
    """One boot, up to an agent that is ready."""
    running = await prepare(config, timeline, stack)
    vm = running.vm
    async with describing_failure(vm, f"the agent was not ready within {config.boot_timeout_s:g} s"):
        await start(running, stack)
        assert vm.child is not None  # noqa: S101 - set by start
        ready = _wait_ready(vm, running.bell, running.vsock.cid)
        await run_while_alive(ready, vm.child, *running.helpers)
    vm.appear()
    return running


async def prepare(config: VmConfig, timeline: Timeline, stack: AsyncExitStack) -> Running:
    """Everything that a machine needs around it, and the machine, which has not begun."""
    state = stack.enter_context(open_state(config.name))
    accelerator = config.accelerator or await choose_accelerator(
        config.program, config.guest.kernel, make_private(state.path.parent)
    )
    timeline.mark("accelerator chosen", accelerator.name)
    if config.channel is None:
        # A copy of a machine that has vsock by vhost-user cannot share its memory with other copies.
        by_vsock = not config.savable and has_vsock(config.guest.vsock_program)
        config = replace(config, channel="vsock" if by_vsock else "serial")
    vsock: Link = Serial(state.path)
    if config.channel == "vsock":
        vsock = await stack.enter_async_context(open_vsock(state.path, config.guest.vsock_program))
    helpers = [vsock.child] if vsock.child else []
    if config.ksm:
        check_ksm((*([vsock.kind] if vsock.child else []), *(["virtiofsd"] if config.share else [])))
    if config.share is not None:
        share = serve_share(config.share, state.file("fs.sock"), state.file("virtiofs.log"))
        helpers.append(await stack.enter_async_context(share))
    bell, doorbell = vsock.open_listener()
    stack.enter_context(bell)
    vm = QemuVm(replace(config, name=state.name), state, accelerator, vsock, timeline)
    return Running(vm, helpers, vsock, bell, doorbell)


@asynccontextmanager
async def describing_failure(vm: QemuVm, late: str) -> AsyncIterator[None]:
    """What begins a machine, within its time; a failure is told with everybody's last words."""
    try:
        async with asyncio.timeout(vm.config.boot_timeout_s):
            yield
    except TimeoutError:
        raise describe_boot_failure(vm, vm.folder / QEMU_LOG, late) from None
    except ChildFailed as exc:
        cause = await find_cause(vm.child, vm.console, exc)
        raise describe_boot_failure(vm, vm.folder / QEMU_LOG, cause) from None


async def start(
    running: Running, stack: AsyncExitStack, saved_memory: str | None = None, pass_fds: tuple[int, ...] = ()
) -> None:
    """Start QEMU and meet it; a machine that was saved waits for its state."""
    vm, vsock = running.vm, running.vsock
    ours, theirs = socket.socketpair()
    with theirs:
        root = find_root(vm.config.image, vm.config.guest)
        vsock_args = vsock.qemu_args if saved_memory is None else ()
        command = plan_command(
            vm.config,
            vm.accelerator,
            vsock_args,
            vm.folder,
            theirs.fileno(),
            running.doorbell,
            root,
            saved_memory,
            one_thread=wants_one_thread(),
        )
        fds = (theirs.fileno(), *vsock.pass_fds, *pass_fds)
        child = Child("qemu", command, log=vm.folder / QEMU_LOG, pass_fds=fds)
    vm.child = await stack.enter_async_context(child)
    vm.timeline.mark("qemu started")
    stack.push_async_callback(vm.close)
    try:
        await vm.open_control(ours)
    except (QMPError, OSError, EOFError) as exc:
        ours.close()
        await child.stop()
        raise ChildFailed(
            f"qemu did not speak on its control socket ({exc}); {child.describe_end()}"
        ) from exc
    vm.timeline.mark("qemu answers")
    try:
        vsock.begin(running.bell, stack.enter_context(ExitStack()))
    except OSError as exc:
        await child.stop()
        raise ChildFailed(f"qemu was there, and its ports were not ({exc}); {child.describe_end()}") from exc


async def _wait_ready(vm: QemuVm, bell: socket.socket, cid: int | None) -> None:
    async for line in iterate_rings(bell, cid):
        for event in (PID1_UP, AGENT_READY):
            if line.startswith(event):
                vm.timeline.mark(event, line.removeprefix(event).strip())
        if line.startswith(AGENT_READY):
            return


def _check(config: VmConfig) -> None:
    if shutil.which(config.program) is None:
        raise VmError(f"{config.program}: not found; install the package qemu-system-x86, or use scripts/run")
    for path in (config.guest.kernel, config.guest.initrd):
        if not os.access(path, os.R_OK):
            raise VmError(f"{path}: no guest there; build one with `kata-image build` or `scripts/run`")
    find_root(config.image, config.guest)
    if config.max_cpus is not None and config.max_cpus < config.cpus:
        raise VmError(
            f"max_cpus {config.max_cpus}: fewer than the {config.cpus} that the machine begins with"
        )
    if config.savable and (config.share is not None or config.channel == "vsock"):
        what = "a share" if config.share else "vsock"
        raise VmError(
            f"{what}: a machine that can be saved has none, since QEMU cannot save it; "
            "a copy can be given one when it is restored"
        )
    if config.share is not None and not config.share.is_dir():
        raise VmError(f"{config.share}: the folder to share does not exist")
    for disk in config.disks:
        if not os.access(disk, os.R_OK | os.W_OK):
            raise VmError(f"{disk}: no disk image there that may be read and written")
