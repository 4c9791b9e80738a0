"""Named ports of a virtio console device: from the host's name for a port to its node.

Owns: where sysfs tells the names. Must not know: what a port is for. A node can be opened once at a time (EBUSY), but
the descriptor may be passed on. Follows drivers/char/virtio_console.c.
"""

from __future__ import annotations

import os

SUBSYSTEM = "virtio-ports"
_PTS_MAJORS = range(136, 144)  # terminals of devpts, which sysfs does not have


def find_port(name: str, *, sysfs: str = "/sys", dev: str = "/dev") -> str | None:
    """The path of the port's node, None when there is no such port (yet)."""
    folder = f"{sysfs}/class/{SUBSYSTEM}"
    try:
        nodes = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None  # no such device was ever there
    for node in nodes:
        try:
            with open(f"{folder}/{node}/name", encoding="utf-8", errors="replace") as file:
                found = file.read().strip()
        except FileNotFoundError:
            continue  # a port without a name, or one whose name the host has not told yet
        if found == name:
            return f"{dev}/{node}"
    return None


def open_port(path: str) -> int:
    """A descriptor for reading and writing that never blocks. EBUSY: somebody else has the port."""
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def is_gone(fd: int, *, sysfs: str = "/sys") -> bool:
    """Whether the port was unplugged. Reading and polling do not tell: it looks like a host that has hung up."""
    device = os.fstat(fd).st_rdev
    path = f"{sysfs}/dev/char/{os.major(device)}:{os.minor(device)}"
    return os.major(device) not in _PTS_MAJORS and not os.path.exists(path)
