"""What the network is like now. Reads only.

Follows: Kata's agent 3.21, "UpdateInterface" steps 1 to 4. The folders of sysfs and procfs are given by the caller.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.network.plan import Observation

if TYPE_CHECKING:
    from kata_linux.rtnetlink import RouteNetlink

_LIVE_RENAME_SINCE = (6, 2)


def observe_interface(netlink: RouteNetlink, sysfs: str, procfs: str, device_path: str) -> Observation:
    """What `plan_interface` needs to know. Raises `OSError`, `NotFound` when nothing is at the PCI path."""
    at_path: frozenset[str] = frozenset()
    if device_path:
        from kata_agent.network import pci

        at_path = pci.find_interfaces(sysfs, device_path)
    return Observation(
        netlink.links(),
        netlink.addresses(),
        has_ipv6(procfs),
        release_version(os.uname().release) >= _LIVE_RENAME_SINCE,
        at_path,
    )


def has_ipv6(procfs: str) -> bool:
    """Whether IPv6 is enabled for all interfaces or for new ones."""
    return any(_is_zero(f"{procfs}/sys/net/ipv6/conf/{which}/disable_ipv6") for which in ("all", "default"))


def _is_zero(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read().strip() == b"0"
    except OSError:
        return False  # a kernel without IPv6


def release_version(release: str) -> tuple[int, ...]:
    """`6.12.9+deb13-cloud-amd64` -> (6, 12)."""
    parts = release.split(".")[:2]
    return tuple(int("".join(letter for letter in part if letter.isdigit()) or 0) for part in parts)
