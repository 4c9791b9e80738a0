"""`local`: a folder on the guest's own disk or share, for a volume of the pod. Nothing is mounted.

Follows: Kata's agent 3.21, "local": without `mode` the group is changed and no bit is.
"""

from __future__ import annotations

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import ops, plan
from kata_agent.mounts.storage.access import parse_gid, parse_mode
from kata_agent.mounts.storage.ephemeral import SET_GROUP_ID
from kata_agent.mounts.storage.request import StorageRequest


def plan_storage(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """Make the folder."""
    if not storage.mount_point:
        raise InvalidRequest("need mount destination")
    plan.check_path(storage.mount_point)
    gid, mode = parse_gid(storage.options), parse_mode(storage.options)
    make = ops.MakeVolume(storage.mount_point)
    if gid is None and mode is None:
        return (make,)
    add = SET_GROUP_ID if gid is not None and mode is not None else 0
    return (make, ops.SetAccess(storage.mount_point, -1 if gid is None else gid, mode, add))
