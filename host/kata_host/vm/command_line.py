"""QEMU's command line: the whole machine as data, and what must be the same for a copy of it.

Owns: every word that QEMU and the kernel are started with, and why. Must not know: processes, sockets. Pure. Follows
docs of QEMU 7.2 (q35, vhost-user).
"""

from __future__ import annotations

import json
from pathlib import Path

from kata_host.vm.base import MEMORY_DEVICE, SHARE_TAG, Accelerator, VmConfig
from kata_host.vm.own_devices import PORTS
from kata_host.vm.root_image import RootDisk, plan_root
from kata_host.vm.serial import CHANNEL_WORDS, plan_serial

# With an IOMMU the kernel keeps 64 MiB to bounce transfers of devices that reach only a part of memory. There are none
# here; 512 pieces of 2 KiB are the least it takes.
_BOUNCE = "swiotlb=512"

# No look whether the timer's interrupts are counted fast enough: on a loaded machine QEMU's come late, and the kernel
# dies of "IO-APIC + timer doesn't work". Kernels that know their hypervisor do not look either.
_TIMER = "no_timer_check"

# Plugged memory can be pulled where the kernel puts nothing of its own; so it treats up to three quarters of all.
_MOVABLE = "memory_hotplug.online_policy=auto-movable"

# The guest tells of memory that it has no use for, and the host has it back. Not of a machine that can be saved: its
# copies map the saved file, and QEMU would punch holes into that.
_BALLOON = ("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on")

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
    *,
    one_thread: bool = False,
) -> list[str]:
    """QEMU's command line. Guest memory is a shared memfd because vhost-user devices map it; KSM wants it private.

    `saved_memory` are the options of the file with it, and then the machine waits to be told its state. `one_thread`:
    emulated processors take turns (decision 0170).
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
        *_plan_processors(config, accelerator, one_thread=one_thread),
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
        command += [*vsock_args, *plan_share(config, folder), *devices, *_plan_ports(_ROOT_PORTS), *_BALLOON]
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


def _plan_processors(config: VmConfig, accelerator: Accelerator, *, one_thread: bool) -> list[str]:
    """The board and its processors. See decision 0095 for the disguise."""
    board = "q35,memory-backend=mem,kernel-irqchip=split"
    cpu = plan_cpu(config, accelerator)
    turns = ",thread=single" if one_thread and accelerator.name == "tcg" else ""
    accel = ("-accel", accelerator.name + turns)
    if config.max_cpus is None:
        topology = f"{config.cpus},maxcpus={max(_LEAST_MAX_CPUS, config.cpus)}"
        return ["-machine", board, *accel, "-cpu", cpu, "-smp", topology]
    topology = f"{config.cpus},sockets={config.max_cpus},cores=1,threads=1,maxcpus={config.max_cpus}"
    if accelerator.name == "kvm":
        return ["-machine", board, *accel, "-cpu", cpu, "-smp", topology]
    # A kernel that takes the machine for a real one leaves no room for processors that come later.
    disguise = ["-smbios", "type=1,serial=VMware-0"]
    return ["-machine", f"{board},vmport=on", *accel, "-cpu", cpu, "-smp", topology, *disguise]


def plan_cpu(config: VmConfig, accelerator: Accelerator) -> str:
    """QEMU's model of the processors."""
    disguised = config.max_cpus is not None and accelerator.name == "tcg"
    return _CPU[accelerator.name] + (",-hypervisor" if disguised else "")
