"""A small sysfs: folders and links as the kernel makes them for devices that come and go."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = "devices/pci0000:00"


class FakeSysfs:
    """A tree below `root`. Addresses are full ones (0000:00:02.0); a bridge names the bus behind it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ROOT).mkdir(parents=True)

    def __str__(self) -> str:
        return str(self.root)

    def write(self, path: str, text: str) -> Path:
        """A file with its folders."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def link(self, path: str, target: Path) -> None:
        """A link with its folders."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(os.path.relpath(target, file.parent))

    def add_bridge(self, address: str, bus: str, parent: str = ROOT) -> str:
        """A bridge to one bus; gives its folder."""
        (self.root / parent / address / "pci_bus" / bus).mkdir(parents=True)
        return f"{parent}/{address}"

    def add_function(self, address: str, parent: str = ROOT, driver: str = "", alias: str = "") -> str:
        """A PCI function."""
        folder = f"{parent}/{address}"
        (self.root / folder).mkdir(parents=True)
        if alias:
            self.write(f"{folder}/modalias", f"{alias}\n")
        if driver:
            self.bind(folder, driver)
        return folder

    def bind(self, folder: str, driver: str) -> None:
        """Give a device its driver."""
        drivers = self.root / "bus/drivers" / driver
        drivers.mkdir(parents=True, exist_ok=True)
        self.link(f"{folder}/driver", drivers)

    def add_disk(self, folder: str, name: str, *partitions: str, number: str = "253:0") -> str:
        """A disk below `folder`/block, with its partitions."""
        disk = f"{folder}/block/{name}"
        major, minor = number.split(":")
        self.write(f"{disk}/uevent", f"MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\nDEVTYPE=disk\n")
        self.link(f"class/block/{name}", self.root / disk)
        for partition in partitions:
            self.write(f"{disk}/{partition}/uevent", f"DEVNAME={partition}\nDEVTYPE=partition\n")
        return disk

    def add_virtio_disk(self, function: str, name: str, *partitions: str) -> str:
        """A virtio disk on a PCI function: bound drivers and a disk."""
        self.bind(function, "virtio-pci")
        (self.root / f"{function}/virtio3").mkdir()
        self.bind(f"{function}/virtio3", "virtio_blk")
        return self.add_disk(f"{function}/virtio3", name, *partitions)

    def add_scsi_host(self, host: int) -> Path:
        """A SCSI host; gives its scan file."""
        return self.write(f"class/scsi_host/host{host}/scan", "")

    def add_scsi_unit(self, unit: str, driver: str = "sd") -> str:
        """A unit of a host, without a disk."""
        folder = f"devices/fake/{unit}"
        (self.root / folder).mkdir(parents=True)
        if driver:
            self.bind(folder, driver)
        self.link(f"class/scsi_device/{unit}/device", self.root / folder)
        return folder
