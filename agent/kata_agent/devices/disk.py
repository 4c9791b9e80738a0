"""`blk`, `scsi`, `mmioblk` and `nvdimm`: disks that a container gets as nodes.

Follows: Kata's agent 3.21, "Handler table"; persistent memory that is not there yet is waited for as well.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from kata_agent.devices import match
from kata_agent.devices.request import DeviceRequest, Handled, Node
from kata_agent.errors import InvalidRequest, describe

if TYPE_CHECKING:
    from kata_agent.devices.attach import Devices
    from kata_agent.devices.match import Matcher

_BY_ADDRESS: dict[str, type[match.PciBlock | match.ScsiDisk]] = {
    "blk": match.PciBlock,
    "scsi": match.ScsiDisk,
}


async def prepare(device: DeviceRequest, devices: Devices, container_id: str) -> Handled:
    """Wait for the disk. Raises `Malformed`, `InvalidRequest`, `TimedOut`."""
    matcher = find_matcher(device)
    if matcher is None:
        return Handled(read_node(device.vm_path))
    arrival = await devices.book.wait(device.type, matcher, container_id)
    return Handled(read_node(arrival.found.node))


def find_matcher(device: DeviceRequest) -> Matcher | None:
    """What to wait for; None for a node that is there."""
    if device.type in _BY_ADDRESS:
        return _BY_ADDRESS[device.type](device.id)
    if not device.vm_path:
        raise InvalidRequest(f"Invalid path for {device.type} device {device.id!r}: vm_path is empty")
    return None if os.path.exists(device.vm_path) else match.NamedBlock(device.vm_path)


def read_node(path: str) -> Node:
    """The kind and numbers of a node."""
    try:
        seen = os.stat(path)
    except OSError as error:
        raise InvalidRequest(f"device {path}: {describe(error)}") from error
    if not (stat.S_ISBLK(seen.st_mode) or stat.S_ISCHR(seen.st_mode)):
        raise InvalidRequest(
            f"Unknown device {path}'s cgroup type: it is neither a block nor a character device"
        )
    kind = "b" if stat.S_ISBLK(seen.st_mode) else "c"
    return Node(kind, os.major(seen.st_rdev), os.minor(seen.st_rdev))
