"""`watchable-bind`: a small folder of the host's share (a ConfigMap, a Secret) as a copy in the guest's memory, where
inotify works.

Follows: Kata's agent 3.21, "Bind watcher". A source that is no small one is bound. The copies of a pod lie on one
tmpfs, which is a storage of its own; like other volumes of the pod they stay until the pod ends, because a later
container may use one without naming it. The copy and what keeps it up to date is `mounts.mirror`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from kata_agent.mounts import ops, plan
from kata_agent.mounts.mirror import copy, snapshot
from kata_agent.mounts.storage import bind
from kata_agent.mounts.storage.request import StorageRequest

DRIVER = "watchable-bind"
SHARE = "/run/kata-containers/shared/containers"
# Where Kata's Go runtime and runtime-rs want the copies of a pod.
ROOTS = (f"{SHARE}/watchable", f"{SHARE}/passthrough/watchable")
ROOT_OPTIONS = ("nosuid", "nodev", "mode=755")


def plan_storage(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """Copy the source, or bind what is too large to be copied."""
    request = storage._replace(fstype=storage.fstype or "bind", mount_point=storage.mount_point.rstrip("/"))
    plan.check(request)
    try:
        with copy.open_source(request.source) as fd:
            snapshot.scan(fd)
    except snapshot.TooLargeError:
        return bind.plan_storage(request)
    except snapshot.UnsettledError:
        pass  # small enough so far; the copying tries again
    return (
        ops.MakeDirectory(os.path.dirname(request.mount_point)),
        ops.Mirror(request.source, request.mount_point),
    )


def with_roots(storages: Sequence[StorageRequest]) -> Iterator[StorageRequest]:
    """The storages, each mirror after the tmpfs that it lies on. Pure."""
    for storage in storages:
        if storage.driver == DRIVER:
            for root in ROOTS:
                if storage.mount_point.startswith(f"{root}/"):
                    yield StorageRequest("ephemeral", "tmpfs", "tmpfs", root, ROOT_OPTIONS)
        yield storage
