"""One function of the PCI bus in sysfs: its driver, IOMMU group and address windows, and giving it another driver.

Owns the files of a function and what is written to them, in plans. Must not know: why. Follows: the kernel's
sysfs-bus-pci ABI; include/linux/ioport.h and uapi/linux/pci_regs.h for what is in
`resource` and `config`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.devices.pci import list_folder, read_driver
from kata_agent.errors import InvalidRequest
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

_BARS = 6
_HEADER_BYTES = 64
_BAR_REGISTERS = 0x10
_WIDTH, _WIDTH_64 = 0x6, 0x4
_MEMORY = 0x200
_UNSET = 0x20000000


class Write(Record):
    """One write to a file below the bus's folder."""

    path: str
    data: str


class Function(Record):
    """What sysfs says of a function now. Empty: it has none."""

    address: str
    driver: str
    group: str
    alias: str


class PciBus:
    """The bus in sysfs."""

    def __init__(self, sysfs: str = "/sys") -> None:
        self.sysfs = sysfs
        self.root = f"{sysfs}/bus/pci"

    def observe(self, address: str) -> Function:
        """Look at a function. OSError when it has gone; InvalidRequest for a group that is none."""
        folder = self._folder(address)
        os.stat(folder)
        try:
            group = os.path.basename(os.readlink(f"{folder}/iommu_group"))
        except FileNotFoundError:
            group = ""
        if group and not group.isdecimal():
            raise InvalidRequest(f"{address}: IOMMU group {group!r} is no number")
        return Function(address, read_driver(folder), group, _read(f"{folder}/modalias"))

    def list_group(self, group: str) -> list[Function]:
        """Every function of an IOMMU group."""
        return [
            self.observe(address)
            for address in list_folder(f"{self.sysfs}/kernel/iommu_groups/{group}/devices")
        ]

    def list_unassigned(self, address: str) -> tuple[str, ...]:
        """Its memory windows that have no address, as texts."""
        folder = self._folder(address)
        with open(f"{folder}/config", "rb") as file:
            return find_unassigned(_read(f"{folder}/resource"), file.read(_HEADER_BYTES))

    def has_driver(self, name: str) -> bool:
        """Whether the driver is loaded."""
        return os.path.isdir(f"{self.root}/drivers/{name}")

    def is_bridge(self, address: str) -> bool:
        """Whether it is a bridge, which may stay with its driver whatever is done to its group."""
        return _read(f"{self._folder(address)}/class").startswith("0x06")

    def write(self, write: Write) -> None:
        """Do one write. Blocks. OSError."""
        path = f"{self.root}/{write.path}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, write.data.encode())
        except OSError as error:
            text = write.data.strip()
            raise OSError(error.errno, f"write {text!r} to: {os.strerror(error.errno or 0)}", path) from None
        finally:
            os.close(fd)

    def apply(self, writes: Sequence[Write]) -> None:
        """Do them in order. Blocks."""
        for write in writes:
            self.write(write)

    def settle(self, address: str) -> None:
        """Wait until the bus has finished with a function that has just come. Blocks.

        Its event comes before its windows have addresses and before a driver may have it, and there is no later one. A
        rescan of its bus takes the lock that whoever adds it holds.
        """
        self.write(Write(f"devices/{address}/rescan", "1"))

    def _folder(self, address: str) -> str:
        return f"{self.root}/devices/{address}"


def plan_override(function: Function, driver: str) -> tuple[Write, ...]:
    """The writes that give a function to `driver`, and to no other from now on. Pure."""
    folder = f"devices/{function.address}"
    override = Write(f"{folder}/driver_override", driver)
    if function.driver == driver:
        return (override,)
    unbind = (Write(f"{folder}/driver/unbind", function.address),) if function.driver else ()
    return (override, *unbind, Write("drivers_probe", function.address))


def plan_restore(function: Function, driver: str) -> tuple[Write, ...]:
    """The inverse: whoever knows the function may have it again. Pure."""
    folder = f"devices/{function.address}"
    override = Write(f"{folder}/driver_override", "\n")
    if function.driver != driver:
        return (override,)
    return (
        override,
        Write(f"{folder}/driver/unbind", function.address),
        Write("drivers_probe", function.address),
    )


def find_unassigned(resource: str, config: bytes) -> tuple[str, ...]:
    """The memory windows without an address, by the lines of `resource` and the registers in `config`. Pure.

    The kernel forgets a window that it found no room for, but its register tells that it is one, if it is of 64 bits or
    prefetchable, as all large ones are. Ports are no longer needed by anybody.
    """
    missing = []
    high = False
    for number, line in enumerate(resource.splitlines()[:_BARS]):
        start, end, flags = (int(word, 16) for word in line.split())
        register = int.from_bytes(config[_BAR_REGISTERS + 4 * number :][:4], "little")
        is_port = bool(register & 1)
        if flags & _MEMORY and (flags & _UNSET or (not start and end)):
            missing.append(f"BAR {number} of {(end - start + 1) >> 10} KiB")
        elif not flags and register and not is_port and not high:
            missing.append(f"BAR {number}")
        high = not high and not is_port and register & _WIDTH == _WIDTH_64
    return tuple(missing)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
