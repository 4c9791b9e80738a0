"""`blk`, `scsi`, `mmioblk` and `nvdimm`: a disk, by its address or by its node in /dev.

Follows: Kata's agent 3.21, "Driver table", with its faults left out: character devices and folders are refused, and
persistent memory whose node is there is not waited for.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import plan
from kata_agent.mounts.ops import Op
from kata_agent.mounts.storage import verified
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.request import StorageRequest

if TYPE_CHECKING:
    from kata_agent.devices.match import Matcher

DRIVERS = frozenset({"blk", "mmioblk", "nvdimm", "scsi"})


def find_matcher(driver: str, source: str) -> Matcher | None:
    """What to wait for before the storage is mounted; None for a disk that must be there. Raises `Malformed`."""
    from kata_agent.devices import match

    if driver == "scsi":
        return match.ScsiDisk(source)
    if driver == "blk":
        return None if source.startswith("/dev/") else match.PciBlock(source)
    return match.NamedBlock(source)


def plan_storage(storage: StorageRequest) -> tuple[Op, ...]:
    """Mount the file system on the disk, or with `bind` the disk itself. The source is a node by now."""
    plan.check(storage)
    check_device(storage.source)
    if verified.asks(storage):
        return verified.plan_disk(storage)
    return plan.plan_mount(storage, observe(storage))


def check_device(source: str) -> None:
    """Refuse what is no block device that is there."""
    try:
        mode = os.stat(source).st_mode
    except FileNotFoundError:
        raise InvalidRequest(f"Invalid device {source}: there is none") from None
    if not stat.S_ISBLK(mode):
        raise InvalidRequest(f"Invalid device {source}: not a block device")
