"""PCI paths and addresses: their text, and the way from a path to a folder of sysfs.

Follows: Kata's agent 3.21, "Address syntaxes", "PCI path -> sysfs". A path is a list of slots (`SS` or `SS.F`,
hexadecimal) from the root bus down, one for each bridge and one for the device. Reads only; who waits looks again.
"""

from __future__ import annotations

import os

from kata_agent.errors import Malformed
from kata_linux.record import Record

_ROOT_BUS = "pci0000:00"
_HEX = frozenset("0123456789abcdefABCDEF")


class Step(Record):
    """How far a path leads. `folder` is that of the device, or of the last bridge before it; `missing` says what
    is not there, empty when the device is."""

    folder: str
    address: str
    missing: str = ""


def parse_slot(text: str) -> str:
    """`2` or `02.0` -> `02.0`. Raises `Malformed`."""
    slot, dot, function = text.partition(".")
    good = bool(slot) and set(slot) <= _HEX and int(slot, 16) <= 0x1F
    if not good or (dot and not (len(function) == 1 and function in "01234567")):
        raise Malformed(f"{text!r} is not a slot like 02 or 1f.7")
    return f"{int(slot, 16):02x}.{function or 0}"


def parse_path(text: str) -> tuple[str, ...]:
    """`02/00` -> ("02.0", "00.0"). Raises `Malformed`."""
    try:
        return tuple(parse_slot(part) for part in text.split("/"))
    except Malformed as error:
        raise Malformed(f"PCI path {text!r}: {error}") from None


def format_path(path: tuple[str, ...]) -> str:
    """`02.0/00.0`."""
    return "/".join(path)


def parse_address(text: str) -> str:
    """`0:2:1f.3` -> `0000:02:1f.3`, as the kernel writes it. Raises `Malformed`."""
    fields = text.split(":")
    if len(fields) == 3:
        domain, bus, slot = fields
        if is_hex(domain, 0xFFFF) and is_hex(bus, 0xFF) and "." in slot:
            try:
                return f"{int(domain, 16):04x}:{int(bus, 16):02x}:{parse_slot(slot)}"
            except Malformed:
                pass  # the text below says what is wanted
    raise Malformed(f"PCI address {text!r}: one like 0000:02:1f.3 is needed")


def is_hex(text: str, most: int) -> bool:
    """Whether the text is a hexadecimal number of at most `most`, without sign, prefix or spaces."""
    return bool(text) and set(text) <= _HEX and int(text, 16) <= most


def walk(sysfs: str, text: str) -> Step:
    """Follow a path as far as it leads now. Raises `Malformed` for what is no path."""
    folder, bus = find_root(sysfs), "0000:00"
    path = parse_path(text)
    for index, slot in enumerate(path):
        address = f"{bus}:{slot}"
        if not os.path.isdir(f"{folder}/{address}"):
            return Step(folder, address, f"there is no device {address} (looked for {folder}/{address})")
        folder = f"{folder}/{address}"
        if index + 1 < len(path):
            buses = list_folder(f"{folder}/pci_bus")
            if len(buses) != 1:
                why = f"{address} is not a bridge to exactly one bus ({folder}/pci_bus has {len(buses)})"
                return Step(folder, address, why)
            bus = buses[0]
    return Step(folder, address)


def find_root(sysfs: str) -> str:
    """The folder of the root bus; on arm64 with a device tree it lies below a platform device."""
    usual = f"{sysfs}/devices/{_ROOT_BUS}"
    if os.path.isdir(usual):
        return usual
    platform = f"{sysfs}/devices/platform"
    bridges = [name for name in list_folder(platform) if name.endswith(".pcie")]
    return f"{platform}/{bridges[0]}/{_ROOT_BUS}" if bridges else usual


def read_driver(folder: str) -> str:
    """The name of the driver that has a device; empty when none has."""
    try:
        return os.path.basename(os.readlink(f"{folder}/driver"))
    except FileNotFoundError:
        return ""


def list_folder(path: str) -> list[str]:
    """The names in a folder, sorted; none when it is not there (any more)."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
