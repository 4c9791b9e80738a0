"""OCI resources as crun can apply them on cgroup v2. Pure.

Owns which values mean "not set" and what v2 has no file for. Follows: Kata's agent, "limits"; the wire cannot tell
an absent number from 0, so 0 is "not set" everywhere it makes no sense as a limit.
"""

from __future__ import annotations

from typing import Any

from kata_agent.errors import InvalidRequest

Resources = dict[str, Any]

# Version 1 only: v2 has no such file, and crun refuses the whole container for them.
V1_MEMORY = ("kernel", "kernelTCP", "swappiness", "useHierarchy")
DEVICE_TYPES = ("a", "b", "c", "u", "p")
# A container gets the devices of the OCI default list, which crun adds, and what its spec allows; nothing else.
DENY_ALL = {"allow": False, "access": "rwm"}


def rewrite(resources: Resources) -> Resources:
    """The part of the resources that says something, for cgroup v2."""
    planned: Resources = {
        "memory": _numbers(resources.get("memory"), without=V1_MEMORY),
        "cpu": _numbers(resources.get("cpu")),
        "pids": _numbers(resources.get("pids")),
        "blockIO": _numbers(resources.get("blockIO")),
        "hugepageLimits": resources.get("hugepageLimits"),
        "unified": resources.get("unified"),
    }
    planned = {key: value for key, value in planned.items() if value}
    planned["devices"] = [DENY_ALL, *(_device_rule(rule) for rule in resources.get("devices") or [])]
    return planned


def _numbers(part: Resources | None, without: tuple[str, ...] = ()) -> Resources:
    """Without zeros, empty texts and lists; negative limits (unlimited) stay."""
    return {key: value for key, value in (part or {}).items() if value and key not in without}


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
