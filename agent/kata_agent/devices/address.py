"""Addresses of devices that are not on PCI: their text. Pure. Follows: Kata's agent 3.21, "Address syntaxes"."""

from __future__ import annotations

from kata_agent.devices.pci import is_hex
from kata_agent.errors import Malformed

_SCSI_LIMIT = 16384 + 256  # ids and logical units beyond are none of any bus


def parse_scsi(text: str) -> tuple[int, int]:
    """`1:0` -> (1, 0): target and logical unit. Raises `Malformed`."""
    fields = text.split(":")
    if len(fields) == 2 and all(field.isascii() and field.isdecimal() for field in fields):
        target, unit = (int(field) for field in fields)
        if target < _SCSI_LIMIT and unit < 2 * _SCSI_LIMIT:
            return target, unit
    raise Malformed(f"SCSI address {text!r}: one like 1:0 (target:unit) is needed")


def parse_ccw(text: str) -> str:
    """`0.1.a` -> `0.1.000a`. Raises `Malformed`."""
    fields = text.split(".")
    good = len(fields) == 3 and fields[0] == "0" and fields[1] in ("0", "1", "2", "3")
    if good and is_hex(fields[2], 0xFFFF):
        return f"0.{fields[1]}.{int(fields[2], 16):04x}"
    raise Malformed(f"CCW address {text!r}: one like 0.0.0001 is needed")


def parse_node(text: str) -> str:
    """`/dev/vda` -> `vda`: a disk's own name. Raises `Malformed`."""
    name = text.removeprefix("/dev/")
    if name == text or not name or "/" in name or name in (".", ".."):
        raise Malformed(f"Invalid device {text!r}: a disk's node like /dev/vda is needed")
    return name
