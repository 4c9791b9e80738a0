"""Which driver mounts which kind of storage, and what they have in common. Drivers are imported when named."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from kata_agent.errors import NotSupported
from kata_agent.mounts import plan
from kata_agent.mounts.ops import Op
from kata_agent.mounts.storage.request import StorageRequest
from kata_linux import mountinfo

# A driver reads the machine and plans; what it returns is applied by the registry. It runs in a worker.
Driver = Callable[[StorageRequest], tuple[Op, ...]]

DRIVERS = {
    "9p": "virtiofs",
    "bind": "bind",
    "blk": "block",
    "ephemeral": "ephemeral",
    "image_guest_pull": "guest_pull",
    "local": "local",
    "mmioblk": "block",
    "nvdimm": "block",
    "overlayfs": "overlay",
    "scsi": "block",
    "virtio-fs": "virtiofs",
    "watchable-bind": "watchable",
}

# Asks somebody else before anything is mounted.
GUEST_PULL = "image_guest_pull"

# Volumes of the pod: their data outlives the container that came first.
LASTING = frozenset({"ephemeral", "local", "watchable-bind"})

# Of another kind of machine; the second is what one runtime calls the first.
NOT_HERE = frozenset({"blk-ccw", "ccw"})


def find_driver(name: str) -> Driver:
    """The driver of this name. Raises `NotSupported` with the text that hosts know."""
    if name not in DRIVERS:
        why = "there is none of that name"
        if name in NOT_HERE:
            why = "CCW devices are those of s390x, this guest has PCI"
        raise NotSupported(f"Failed to find the storage handler {name}: {why}")
    driver: Driver = import_module(f"kata_agent.mounts.storage.{DRIVERS[name]}").plan_storage
    return driver


def observe(storage: StorageRequest) -> plan.Observation:
    """Read what `plan_mount` must know of the machine."""
    top = mountinfo.find_mount(mountinfo.read_mounts(), storage.mount_point.rstrip("/"))
    return plan.Observation(
        mounted_fstype=top.fstype if top else None,
        source_is_directory=os.path.isdir(storage.source),
    )
