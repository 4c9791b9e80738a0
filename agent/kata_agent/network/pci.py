"""The network interfaces of the device at a PCI path, through sysfs.

Follows: Kata's agent 3.21, "Address syntaxes", "PCI path -> sysfs", "Network device hotplug wait": a path is a list of
slots (`SS` or `SS.F`, hexadecimal) from the root bus down. Who waits for a device looks again.
"""

from __future__ import annotations

import os

from kata_agent.errors import NotFound
from kata_agent.network.value import Malformed

_ROOT_BUS = "pci0000:00"


def parse_path(text: str) -> tuple[str, ...]:
    """`02/00` -> ("02.0", "00.0")."""
    return tuple(_parse_slot(part, text) for part in text.split("/"))


def _parse_slot(part: str, text: str) -> str:
    slot, dot, function = part.partition(".")
    digits = set("0123456789abcdefABCDEF")
    good = bool(slot) and set(slot) <= digits and int(slot, 16) <= 0x1F
    if not good or (dot and not (len(function) == 1 and function in "01234567")):
        raise Malformed(f"PCI path {text!r}: {part!r} is not a slot like 02 or 1f.7")
    return f"{int(slot, 16):02x}.{function or 0}"


def find_interfaces(sysfs: str, text: str) -> frozenset[str]:
    """Names of the interfaces of the device at this path. `NotFound` says at which step there was nothing."""
    folder, bus = find_root(sysfs), "0000:00"
    path = parse_path(text)
    for index, slot in enumerate(path):
        folder = f"{folder}/{bus}:{slot}"
        if not os.path.isdir(folder):
            raise NotFound(f"PCI path {text}: there is no device {bus}:{slot} (looked for {folder})")
        if index + 1 < len(path):
            bus = _find_bus(folder, text)
    names = _find_names(folder)
    if not names:
        raise NotFound(f"PCI path {text}: the device {bus}:{path[-1]} has no network interface")
    return names


def find_root(sysfs: str) -> str:
    """The folder of the root bus; on arm64 with a device tree it lies below a platform device."""
    usual = f"{sysfs}/devices/{_ROOT_BUS}"
    if os.path.isdir(usual):
        return usual
    platform = f"{sysfs}/devices/platform"
    try:
        bridges = sorted(name for name in os.listdir(platform) if name.endswith(".pcie"))
    except FileNotFoundError:
        bridges = []
    return f"{platform}/{bridges[0]}/{_ROOT_BUS}" if bridges else usual


def _find_bus(folder: str, text: str) -> str:
    try:
        buses = os.listdir(f"{folder}/pci_bus")
    except FileNotFoundError:
        buses = []
    if len(buses) != 1:
        raise NotFound(f"PCI path {text}: {folder} is not a bridge to exactly one bus")
    return buses[0]


def _find_names(folder: str) -> frozenset[str]:
    """Interfaces belong to the function itself, or to the virtio device on it."""
    names: set[str] = set()
    for parent in (folder, *(f"{folder}/{name}" for name in os.listdir(folder) if name.startswith("virtio"))):
        try:
            names.update(os.listdir(f"{parent}/net"))
        except FileNotFoundError:
            pass  # not a network device, or not this level
    return frozenset(names)
