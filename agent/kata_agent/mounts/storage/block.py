"""`blk`, `mmioblk` and `nvdimm`: a disk by its node in /dev.

A disk by its PCI address, and one whose node is not there yet, needs hotplug, which is not built: such a request is
refused by name. Follows: Kata's agent 3.21, "Driver table"; its test lets character devices and folders pass.
"""

from __future__ import annotations

import os
import stat

from kata_agent.errors import InvalidRequest, NotSupported
from kata_agent.mounts import plan
from kata_agent.mounts.ops import Op
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.request import StorageRequest


def plan_storage(storage: StorageRequest) -> tuple[Op, ...]:
    """Mount the file system on the disk, or with `bind` the disk itself."""
    plan.check(storage)
    check_device(storage.driver, storage.source)
    return plan.plan_mount(storage, observe(storage))


def check_device(driver: str, source: str) -> None:
    """Refuse what is no block device that is there."""
    if not source.startswith("/dev/"):
        text = "by address it needs hotplug, which this agent does not have yet; give its /dev/NAME"
        raise NotSupported(f"Failed to find the storage handler {driver} for device {source!r}: {text}")
    try:
        mode = os.stat(source).st_mode
    except FileNotFoundError:
        text = f"Invalid device {source}: there is none, and this agent cannot wait for one to be plugged yet"
        raise NotSupported(text) from None
    if not stat.S_ISBLK(mode):
        raise InvalidRequest(f"Invalid device {source}: not a block device")
