"""The cgroups above a container's own: given room for its processors, and removed with the last that needed them.

Owns which of them are ours: those that were not there before a container of ours asked for a path below them. Must not
know the registry; `others` are the containers that exist beside this one. Kernel: cgroup-v2.rst, "Cpuset".
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from kata_agent.cgroups.apply import grow_ancestors, list_ancestors
from kata_agent.cgroups.plan import Facts, plan_writes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata_agent.containers.container import Container

# Something lives in it or below it, that is not ours.
_IN_USE = (errno.EBUSY, errno.ENOTEMPTY)


def plan_ours(root: str, cgroup: str, others: Iterable[Container]) -> tuple[str, ...]:
    """The groups above `cgroup` that will be ours to remove, as paths below `root`, outermost first."""
    ours = {path for other in others for path in other.parents}
    above = [folder.removeprefix(root) for folder in list_ancestors(root, cgroup)]
    return tuple(path for path in above if path in ours or not os.path.exists(root + path))


def make_room(root: str, cgroup: str, resources: dict[str, Any]) -> None:
    """Let the groups above have the processors and memory nodes that are asked for; after a hotplug they lack them.

    They only grow, as with an update; a container that could not be made takes none of it back from others.
    """
    cpu = resources.get("cpu") or {}
    wanted = {key: cpu[key] for key in ("cpus", "mems") if cpu.get(key)}
    for write in plan_writes({"cpu": wanted}, Facts()):
        grow_ancestors(root, cgroup, write)


def remove(root: str, container: Container, others: Iterable[Container]) -> None:
    """Remove those that are ours and that nobody needs any more; what others live in stays."""
    needed = [other.cgroup for other in others if other is not container]
    for path in reversed(container.parents):
        if any(other.startswith(f"{path}/") for other in needed):
            return
        try:
            os.rmdir(root + path)
        except FileNotFoundError:
            continue  # removed by somebody else, or never made
        except OSError as error:
            if error.errno not in _IN_USE:
                raise
            return
