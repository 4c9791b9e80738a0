"""The QEMU machine: its command line, its launch until the agent is ready, its end.

`plan_command` is the whole machine as data; `launch` brings up what it needs (folder, vsock, share, doorbell),
starts it, and takes everything down again however it ends. Follows docs of QEMU 7.2 (q35, vhost-user) and its QMP
reference.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from kata_host.vm.accel import choose_accelerator
from kata_host.vm.again import boot_with_second_try
from kata_host.vm.base import MEMORY_DEVICE, SHARE_TAG, Accelerator, Timeline, VmConfig, VmError
from kata_host.vm.diagnosis import CAUSE_TIMEOUT_S, describe_boot_failure, find_cause
from kata_host.vm.doorbell import AGENT_READY, PID1_UP, answer_rings, iterate_rings
from kata_host.vm.ksm import check_ksm
from kata_host.vm.logbound import bound_logs
from kata_host.vm.own_devices import PORTS
from kata_host.vm.process import Child, ChildFailed, run_while_alive, wait_first_end
from kata_host.vm.qmp import run_command
from kata_host.vm.root_image import RootDisk, find_root, plan_root
from kata_host.vm.serial import CHANNEL_WORDS, Serial, plan_serial
from kata_host.vm.state import VmState, make_private, open_state
from kata_host.vm.virtiofs import serve_share
from kata_host.vm.vsock import Vsock, has_vsock, open_vsock

Link = Vsock | Serial  # how the agent is reached

QUIT_TIMEOUT_S = 3.0
QEMU_LOG = "qemu.log"

# With an IOMMU the kernel keeps 64 MiB to bounce transfers of devices that reach only a part of memory. There are none
# here; 512 pieces of 2 KiB are the least it takes.
_BOUNCE = "swiotlb=512"

# No look whether the timer's interrupts are counted fast enough: on a loaded machine QEMU's come late, and the kernel
# dies of "IO-APIC + timer doesn't work". Kernels that know their hypervisor do not look either.
_TIMER = "no_timer_check"

# Plugged memory can be pulled where the kernel puts nothing of its own; so it treats up to three quarters of all.
_MOVABLE = "memory_hotplug.online_policy=auto-movable"

# Empty slots for disks, devices and functions that come later; a port each, as PCIe hotplug wants it.
_ROOT_PORTS = 4
# Room for the memory of what comes; without, a port has 2 MiB, and a display's memory gets no address.
_WINDOWS = "mem-reserve=32M,pref64-reserve=1G"
_HOTPLUG_MEMORY_MIB = 4096
_LEAST_MAX_CPUS = 4

# `-cx16`: emulation of QEMU 7.2 loses the flags of cmpxchg16b with more than one CPU, and the guest's allocator dies.
_CPU = {"kvm": "host", "tcg": "max,-cx16"}


def plan_command(
    config: VmConfig,
    accelerator: Accelerator,
    vsock_args: tuple[str, ...],
    folder: Path,
    control_fd: int,
    doorbell: str,
    root_disk: RootDisk | None = None,
    saved_memory: str | None = None,
) -> list[str]:
    """QEMU's command line. Guest memory is a shared memfd because vhost-user devices map it; KSM wants it private.

    `saved_memory` are the options of the file with it, and then the machine waits to be told its state.
    """
    root = plan_root(config.image, config.guest, root_disk, len(config.disks))
    kernel_args = (
        "console=ttyS0 quiet panic=-1 rdinit=/init intel_iommu=on iommu=pt",
        _BOUNCE,
        _TIMER,
        _MOVABLE,
        f"kata.doorbell={doorbell}",
        *(CHANNEL_WORDS if config.channel == "serial" else ()),
        *root.kernel_args,
        *config.kernel_args,
    )
    memory = config.memory_mib
    backend, sharing = ("ram", "merge=on") if config.ksm else ("memfd", "share=on")
    if saved_memory is not None:
        backend, sharing = "file", saved_memory
    command = [
        config.program, "-name", config.name or folder.name, "-nodefaults", "-display", "none", "-no-reboot",
        "-device", "intel-iommu,intremap=off,caching-mode=on",
        *_plan_processors(config, accelerator),
        "-m", f"{memory}M,slots=4,maxmem={memory + _HOTPLUG_MEMORY_MIB}M",
        "-object", f"memory-backend-{backend},id=mem,size={memory}M,{sharing}",
        "-kernel", str(config.guest.kernel), "-initrd", str(root.initrd),
        "-append", " ".join(kernel_args),
        "-serial", f"file:{folder / 'console.log'}",
        "-chardev", f"socket,id=control,fd={control_fd}", "-mon", "chardev=control,mode=control",
        "-qmp", f"unix:{folder / 'qmp.sock'},server=on,wait=off",
    ]  # fmt: skip
    serial = plan_serial(folder) if config.savable or config.channel == "serial" else ()
    devices = (*serial, *_plan_devices(config))
    if config.savable:
        # What cannot be saved is plugged into the copies; vmgenid tells a kernel that it is one.
        command += [*devices, *_plan_ports(PORTS), "-device", "vmgenid,guid=auto"]
    else:
        command += [*vsock_args, *plan_share(config, folder), *devices, *_plan_ports(_ROOT_PORTS)]
    if saved_memory is not None:
        command += ["-incoming", "defer", "-S"]
    # Last, so that the slots of everything else are the same with each kind of image.
    return [*command, *root.qemu_args]


def _plan_ports(count: int) -> list[str]:
    ports = range(count)
    numbered = [f"pcie-root-port,id=rp{port},chassis={port + 1},slot={port + 1},{_WINDOWS}" for port in ports]
    return [word for port in numbered for word in ("-device", port)]


def plan_share(config: VmConfig, folder: Path) -> tuple[str, ...]:
    """The shared folder's channel and device."""
    if config.share is None:
        return ()
    return (
        "-chardev", f"socket,id=share,path={folder / 'fs.sock'}",
        "-device", f"vhost-user-fs-pci,chardev=share,tag={SHARE_TAG}",
    )  # fmt: skip


def _plan_devices(config: VmConfig) -> list[str]:
    """The memory device, disks and interfaces."""
    arguments: list[str] = []
    if config.memory_device_mib:
        size = f"size={config.memory_device_mib}M"
        arguments += [
            "-object", f"memory-backend-memfd,id={MEMORY_DEVICE}-backend,{size},share=on,reserve=off",
            "-device", f"virtio-mem-pci,id={MEMORY_DEVICE},memdev={MEMORY_DEVICE}-backend,requested-size=0",
        ]  # fmt: skip
    for number, disk in enumerate(config.disks):
        name = f"disk{number}"
        file = {"driver": "file", "filename": str(disk)}
        arguments += [
            "-blockdev", json.dumps({"driver": "raw", "node-name": name, "file": file}),
            "-device", f"virtio-blk-pci,drive={name},serial={name}",
        ]  # fmt: skip
    for number, mac in enumerate(config.nics):
        name = f"nic{number}"
        arguments += [
            "-netdev",
            f"user,id={name}-net",
            "-device",
            f"virtio-net-pci,netdev={name}-net,id={name},mac={mac}",
        ]
    return arguments


def _plan_processors(config: VmConfig, accelerator: Accelerator) -> list[str]:
    """The board and its processors. See decision 0095 for the disguise."""
    machine = f"q35,accel={accelerator.name},memory-backend=mem,kernel-irqchip=split"
    cpu = plan_cpu(config, accelerator)
    if config.max_cpus is None:
        topology = f"{config.cpus},maxcpus={max(_LEAST_MAX_CPUS, config.cpus)}"
        return ["-machine", machine, "-cpu", cpu, "-smp", topology]
    topology = f"{config.cpus},sockets={config.max_cpus},cores=1,threads=1,maxcpus={config.max_cpus}"
    if accelerator.name == "kvm":
        return ["-machine", machine, "-cpu", cpu, "-smp", topology]
    # A kernel that takes the machine for a real one leaves no room for processors that come later.
    disguise = ["-smbios", "type=1,serial=VMware-0"]
    return ["-machine", f"{machine},vmport=on", "-cpu", cpu, "-smp", topology, *disguise]


def plan_cpu(config: VmConfig, accelerator: Accelerator) -> str:
    """QEMU's model of the processors."""
    disguised = config.max_cpus is not None and accelerator.name == "tcg"
    return _CPU[accelerator.name] + (",-hypervisor" if disguised else "")


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
        self.plugged: dict[str, str] = {}  # by name, where the guest finds what was plugged with the start
        self._watch: asyncio.Task[str] | None = None
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
            done, _ = await asyncio.wait([self._watch], timeout=2 * CAUSE_TIMEOUT_S)
            cause = self._watch.result() if done else cause
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
    vsock.begin(running.bell, stack.enter_context(ExitStack()))


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
