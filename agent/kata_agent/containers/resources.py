"""The resources of a container to be made, as crun gets them. Pure.

Owns how `cgroups.plan`'s writes are handed to crun, and device rules, which are crun's alone. An update writes the same
plan itself: what a number means is the same at both times. See decision 0020.
"""

from __future__ import annotations

from typing import Any

from kata_agent.cgroups.plan import MAX, Facts, plan_writes
from kata_agent.errors import InvalidRequest

Resources = dict[str, Any]

# What a new group has already: asking for it needs no controller.
FRESH = {"pids.max": MAX, "memory.max": MAX, "memory.swap.max": MAX, "cpu.max": MAX}
DEVICE_TYPES = ("a", "b", "c", "u", "p")
# A container gets the devices of the OCI default list, which crun adds, and what its spec allows; nothing else.
DENY_ALL = {"allow": False, "access": "rwm"}


def rewrite(resources: Resources, hugepage_sizes: tuple[str, ...] = ()) -> Resources:
    """Limits as files (crun's `unified`), and rules for devices."""
    unified: dict[str, str] = {}
    memory = {}
    for write in plan_writes(resources, Facts(hugepage_sizes=hugepage_sizes)):
        if FRESH.get(write.file) == write.value:
            continue
        if write.file == "memory.swap.max":
            # crun leaves it out on a kernel without swap, which has no such file; it takes the sum with the limit.
            memory = {
                key: resources["memory"][key] for key in ("limit", "swap") if resources["memory"].get(key)
            }
        else:
            unified[write.file] = "\n".join(filter(None, (unified.get(write.file), write.value)))
    planned: Resources = {"devices": plan_devices(resources)}
    planned.update({key: value for key, value in (("memory", memory), ("unified", unified)) if value})
    return planned


def plan_devices(resources: Resources) -> list[Resources]:
    """Nothing, then what the rules allow, in their order."""
    return [DENY_ALL, *(_device_rule(rule) for rule in resources.get("devices") or [])]


def _device_rule(rule: Resources) -> Resources:
    """A rule whose numbers of -1 (and a major of 0, which no device has) are wildcards, as absent ones are."""
    kind = rule.get("type") or "a"
    if kind not in DEVICE_TYPES:
        raise InvalidRequest(f"device rule type {kind!r} is none of {', '.join(DEVICE_TYPES)}")
    planned = {"allow": bool(rule.get("allow")), "access": rule.get("access") or "rwm", "type": kind}
    major, minor = rule.get("major", -1), rule.get("minor", -1)
    if major > 0:
        planned["major"] = major
        if minor >= 0:
            planned["minor"] = minor
    return planned
