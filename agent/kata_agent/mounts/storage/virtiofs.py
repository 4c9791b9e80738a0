"""`virtio-fs` and `9p`: a folder of the host, by its tag. What the kernel has no file system for, it refuses."""

from __future__ import annotations

from kata_agent.mounts import plan
from kata_agent.mounts.ops import Op
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.request import StorageRequest

# The tag of the share that every container uses. One that is mounted already is a success, whatever it is mounted
# as: a restored machine, or PID 1, may have been first.
SHARED_TAG = "kataShared"


def plan_storage(storage: StorageRequest) -> tuple[Op, ...]:
    """Mount the share, unless it is there."""
    plan.check(storage)
    seen = observe(storage)
    if storage.source == SHARED_TAG and seen.mounted_fstype is not None:
        return ()
    return plan.plan_mount(storage, seen)
