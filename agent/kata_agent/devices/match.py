"""What a device is waited for by: one class for each way of naming one.

Owns: where in sysfs a named device is, what stands in its way when it is not there, and which of the kernel's events
may change that. Must not know: waiting, the wire. sysfs alone decides, so a device that was there before anybody
listened, and one whose event was lost, are found like any other. Reads only, small files, never blocks for long.

A matcher has `text`, which names what is waited for; `look`; `concerns`, which tells whether an event is worth
another look; and `prompts`: what may be written where to make the kernel look for itself.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol

from kata_agent.devices import pci
from kata_agent.devices.address import parse_node, parse_scsi
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_linux.uevent import Uevent

_VIRTIO = re.compile(r"virtio\d+")
_NVME_DISK = re.compile(r"nvme\d+(c\d+)?n\d+")
_VIRTIO_SCSI_ID = "0x0008"
_SECTOR_BYTES = 512  # of sysfs, whatever the disk's are


class Found(Record):
    """A device that is there. `folder` lies in sysfs; `name` is the kernel's (vda, 0000:02:00.0); `node` is its path
    in /dev, with its numbers, empty for what has none."""

    folder: str
    name: str
    node: str = ""
    major: int = 0
    minor: int = 0


class Missing(Record):
    """A device that is not there, or not ready. `text` is the nearest thing that is there, and its state;
    `undriven` are folders of devices on the way to it that no driver has taken."""

    text: str
    undriven: tuple[str, ...] = ()


class Prompt(Record):
    """Something that makes the kernel look for devices: `data` written to `path`."""

    path: str
    data: str


class Matcher(Protocol):
    """A device, by one of its names."""

    @property
    def text(self) -> str:
        """What is waited for; the same for everybody who waits for the same device."""

    @property
    def group(self) -> str:
        """The subsystem of the device: block, pci, net."""

    def look(self, sysfs: str) -> Found | Missing:
        """Look now."""

    def concerns(self, event: Uevent) -> bool:
        """Whether this event may be the device, or a step towards it."""

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """What to write before waiting, or (`late`) when nothing has come for a while."""


class PciFunction:
    """A function at a PCI path, whatever it is. Bridges that are not there yet are waited for, too."""

    group = "pci"

    def __init__(self, path: str) -> None:
        """Raises `Malformed`."""
        self.path = pci.format_path(pci.parse_path(path))
        self.text = f"PCI device {self.path}"

    def look(self, sysfs: str) -> Found | Missing:
        """The device's folder, once it is on the bus: the folder comes before its files, and the event after all."""
        step = pci.walk(sysfs, self.path)
        if step.missing:
            return Missing(step.missing)
        if not os.path.exists(f"{sysfs}/bus/pci/devices/{step.address}"):
            return Missing(f"slot {step.address} present, not on its bus yet")
        return Found(step.folder, step.address)

    def concerns(self, event: Uevent) -> bool:
        """PCI devices and what lies on them; a device may also be found by its removal making room."""
        return "/pci0000:00/" in event.devpath and event.action != "remove"

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """A host that cannot notify the guest leaves it to look itself."""
        return (Prompt(f"{sysfs}/bus/pci/rescan", "1"),) if late else ()


class PciBlock(PciFunction):
    """The disk of the function at a PCI path: virtio-blk or NVMe."""

    group = "block"

    def __init__(self, path: str) -> None:
        """Raises `Malformed`."""
        super().__init__(path)
        self.text = f"block device at PCI path {self.path}"

    def look(self, sysfs: str) -> Found | Missing:
        """The disk itself, never a partition."""
        step = pci.walk(sysfs, self.path)
        if step.missing:
            return Missing(step.missing)
        driver = pci.read_driver(step.folder)
        if not driver:
            return Missing(f"slot {step.address} present, no driver bound", (step.folder,))
        inner = [name for name in pci.list_folder(step.folder) if _VIRTIO.fullmatch(name)]
        for name in inner:
            virtio = f"{step.folder}/{name}"
            disks = pci.list_folder(f"{virtio}/block")
            if disks:
                return read_block(f"{virtio}/block/{disks[0]}", disks[0])
            if not pci.read_driver(virtio):
                text = f"slot {step.address} present with {name}, which has no driver bound"
                return Missing(text, (virtio,))
        for controller in pci.list_folder(f"{step.folder}/nvme"):
            folder = f"{step.folder}/nvme/{controller}"
            for name in pci.list_folder(folder):
                if _NVME_DISK.fullmatch(name):
                    return read_block(f"{folder}/{name}", name)
        return Missing(f"{describe_slot(step, inner)}, no disk of it")


class ScsiDisk:
    """A disk by target and logical unit, on channel 0 of whichever SCSI host has it; the first of several."""

    group = "block"

    def __init__(self, address: str) -> None:
        """Raises `Malformed`."""
        self.target, self.unit = parse_scsi(address)
        self.text = f"SCSI disk {self.target}:{self.unit}"
        self._name = re.compile(rf"\d+:0:{self.target}:{self.unit}")

    def look(self, sysfs: str) -> Found | Missing:
        """The disk of the unit."""
        units = pci.list_folder(f"{sysfs}/class/scsi_device")
        for unit in sorted(units, key=_host_number):
            if self._name.fullmatch(unit):
                return self._look_unit(f"{sysfs}/class/scsi_device/{unit}/device", unit)
        hosts = pci.list_folder(f"{sysfs}/class/scsi_host")
        if not hosts:
            return Missing("there is no SCSI host", find_undriven_virtio(sysfs, _VIRTIO_SCSI_ID))
        return Missing(f"{', '.join(hosts)} present, with the units {', '.join(units) or 'none'}")

    def _look_unit(self, folder: str, unit: str) -> Found | Missing:
        for name in pci.list_folder(f"{folder}/block"):
            return read_block(f"{folder}/block/{name}", name)
        driver = pci.read_driver(folder)
        if driver:
            return Missing(f"unit {unit} present, driver {driver} bound, no disk of it")
        return Missing(f"unit {unit} present, no driver bound", (folder,))

    def concerns(self, event: Uevent) -> bool:
        """Disks, units, and the hosts they come with."""
        return event.subsystem in ("block", "scsi", "scsi_device", "scsi_host", "virtio", "pci")

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """Every host is asked for this unit; a host that came later, too."""
        hosts = pci.list_folder(f"{sysfs}/class/scsi_host")
        found = tuple(
            Prompt(f"{sysfs}/class/scsi_host/{host}/scan", f"0 {self.target} {self.unit}") for host in hosts
        )
        return (*found, Prompt(f"{sysfs}/bus/pci/rescan", "1")) if late else found


class NamedBlock:
    """A disk by the name that the kernel will give it: virtio-mmio disks (vda), persistent memory (pmem0)."""

    group = "block"

    def __init__(self, node: str) -> None:
        """`node` is a path like /dev/vda. Raises `Malformed`."""
        self.name = parse_node(node)
        self.text = f"block device /dev/{self.name}"

    def look(self, sysfs: str) -> Found | Missing:
        """The disk, wherever it is."""
        disks = pci.list_folder(f"{sysfs}/class/block")
        if self.name in disks:
            return read_block(f"{sysfs}/class/block/{self.name}", self.name)
        undriven = find_undriven_memory(sysfs) if self.name.startswith("pmem") else ()
        return Missing(f"the block devices there are: {', '.join(disks) or 'none'}", undriven)

    def concerns(self, event: Uevent) -> bool:
        """Disks, and the buses of persistent memory."""
        return event.subsystem in ("block", "nd", "virtio", "acpi", "platform", "pci")

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """Persistent memory may be a PCI device."""
        return (Prompt(f"{sysfs}/bus/pci/rescan", "1"),) if late else ()


class GrownDisk:
    """A disk that has so many bytes, by its `MAJOR:MINOR`: the kernel takes in a new size after the host has set it."""

    group = "block"

    def __init__(self, device: str, size: int) -> None:
        self.text = f"disk {device} of {size} bytes"
        self._device = device
        self._size = size

    def look(self, sysfs: str) -> Found | Missing:
        """Its size now."""
        folder = f"{sysfs}/dev/block/{self._device}"
        size = int(_read(f"{folder}/size") or 0) * _SECTOR_BYTES
        return Found(folder, self._device) if size >= self._size else Missing(f"it has {size} bytes")

    def concerns(self, event: Uevent) -> bool:
        """Disks: a change of size is told."""
        return event.subsystem == "block"

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """The host tells by itself."""
        return ()


class NetworkAt(PciFunction):
    """The network interface of the function at a PCI path; `name` is the interface's."""

    group = "net"

    def __init__(self, path: str) -> None:
        """Raises `Malformed`."""
        super().__init__(path)
        self.text = f"network interface at PCI path {self.path}"

    def look(self, sysfs: str) -> Found | Missing:
        """The interface of the function itself, or of the virtio device on it."""
        step = pci.walk(sysfs, self.path)
        if step.missing:
            return Missing(step.missing)
        virtio = [name for name in pci.list_folder(step.folder) if _VIRTIO.fullmatch(name)]
        parents = [step.folder, *(f"{step.folder}/{name}" for name in virtio)]
        for parent in parents:
            for name in pci.list_folder(f"{parent}/net"):
                return Found(f"{parent}/net/{name}", name)
        undriven = tuple(parent for parent in parents if not pci.read_driver(parent))
        if undriven:
            return Missing(f"slot {step.address} present, no driver bound", undriven)
        return Missing(f"{describe_slot(step, virtio)}, it has no network interface")


def describe_slot(step: pci.Step, virtio: Sequence[str]) -> str:
    """What is in a slot, as its driver tells; of a virtio device only the inner driver tells which one it is."""
    inner = virtio[0] if virtio else ""
    driver = pci.read_driver(f"{step.folder}/{inner}" if inner else step.folder)
    return f"slot {step.address} present{f' with {inner}' if inner else ''}, driver {driver} bound"


def read_block(folder: str, name: str) -> Found | Missing:
    """A disk by its folder in sysfs. Its node has the name that the kernel tells there."""
    try:
        with open(f"{folder}/uevent", encoding="utf-8") as file:
            told = dict(line.split("=", 1) for line in file.read().splitlines() if "=" in line)
    except OSError:
        return Missing(f"{name} has just gone")
    if "MAJOR" not in told:
        return Missing(f"{name} present, without a number yet")
    node = f"/dev/{told.get('DEVNAME', name)}"
    return Found(folder, name, node, int(told["MAJOR"]), int(told["MINOR"]))


def find_undriven_virtio(sysfs: str, kind: str) -> tuple[str, ...]:
    """Virtio devices of a kind (`device` of sysfs) that no driver has taken."""
    bus = f"{sysfs}/bus/virtio/devices"
    folders = (f"{bus}/{name}" for name in pci.list_folder(bus))
    return tuple(f for f in folders if not pci.read_driver(f) and _read(f"{f}/device") == kind)


def find_undriven_memory(sysfs: str) -> tuple[str, ...]:
    """Devices of persistent memory that no driver has taken: ACPI's root, virtio's, and regions and namespaces."""
    acpi = f"{sysfs}/bus/acpi/devices"
    roots = [f"{acpi}/{name}" for name in pci.list_folder(acpi) if name.startswith("ACPI0012")]
    regions = [f"{sysfs}/bus/nd/devices/{name}" for name in pci.list_folder(f"{sysfs}/bus/nd/devices")]
    virtio = find_undriven_virtio(sysfs, "0x001b")
    return (*(folder for folder in (*roots, *regions) if not pci.read_driver(folder)), *virtio)


def _host_number(unit: str) -> int:
    host = unit.partition(":")[0]
    return int(host) if host.isdecimal() else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
