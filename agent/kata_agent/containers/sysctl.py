"""Sysctls of the network: the guest's own, because containers share its network namespace.

Owns which of a spec's sysctls are not the jail's, and writing them. Kata's agent passes over one that the kernel does
not have; here it is refused by name, before anything is written. Follows: sysctl(8).
"""

from __future__ import annotations

import os
from typing import Any

from kata_agent.errors import InvalidRequest, NotSupported

PREFIX = "net."
_SWAPPED = str.maketrans("./", "/.")


def split(linux: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Those that crun sets, and those of the guest by their path below /proc/sys. Pure.

    A container that joins a network namespace by its path has all of them set by crun, in there.
    """
    sysctls = linux.get("sysctl") or {}
    entries = linux.get("namespaces") or []
    if any(entry.get("type") in ("net", "network") and entry.get("path") for entry in entries):
        return dict(sysctls), {}
    own = {name: value for name, value in sysctls.items() if not name.startswith(PREFIX)}
    guests = {to_path(name): value for name, value in sysctls.items() if name.startswith(PREFIX)}
    return own, guests


def to_path(name: str) -> str:
    """`net.ipv4.conf.eth0/1.forwarding` is the file `net/ipv4/conf/eth0.1/forwarding`."""
    path = name.translate(_SWAPPED)
    if {"", ".", ".."} & set(path.split("/")) or "\0" in path:
        raise InvalidRequest(f"sysctl {name!r} is not a name")
    return path


def write_guests(sysctls: dict[str, str], root: str = "/proc/sys") -> None:
    """Write them all, or none when one of them is not there. OSError tells of a value that the kernel refuses."""
    for path in sysctls:
        if not os.path.exists(f"{root}/{path}"):
            raise NotSupported(f"sysctl {path.translate(_SWAPPED)}: the guest's kernel has none of this name")
    for path, value in sysctls.items():
        with open(f"{root}/{path}", "w", encoding="utf-8") as file:
            file.write(value)
