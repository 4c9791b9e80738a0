"""The network interfaces of the device at a PCI path, through sysfs.

Follows: Kata's agent 3.21, "Network device hotplug wait". Who waits looks again.
"""

from __future__ import annotations

from kata_agent.devices import pci
from kata_agent.errors import NotFound


def find_interfaces(sysfs: str, text: str) -> frozenset[str]:
    """Names of the interfaces of the device at this path. `NotFound` says at which step there was nothing."""
    step = pci.walk(sysfs, text)
    if step.missing:
        raise NotFound(f"PCI path {text}: {step.missing}")
    names = _find_names(step.folder)
    if not names:
        raise NotFound(f"PCI path {text}: the device {step.address} has no network interface")
    return names


def _find_names(folder: str) -> frozenset[str]:
    """Interfaces belong to the function itself, or to the virtio device on it."""
    virtio = [f"{folder}/{name}" for name in pci.list_folder(folder) if name.startswith("virtio")]
    return frozenset(name for parent in (folder, *virtio) for name in pci.list_folder(f"{parent}/net"))
