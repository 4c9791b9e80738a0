"""The cheap look at the start: has this guest anything of a confidential one? Most have not, and pay for no more.

Owns: where the guest components and the initdata disk are looked for. Imports nothing that costs.
"""

from __future__ import annotations

import os

BINARIES = "/usr/local/bin"
# In the order in which they start; each needs those before it.
NAMES = ("attestation-agent", "confidential-data-hub", "api-server-rest")
HUB_SOCKET = "/run/confidential-containers/cdh.sock"
MAGIC = b"initdata"


def list_wanted(procs: str) -> tuple[str, ...]:
    """The components that `agent.guest_components_procs` names: the one and those it needs. Pure."""
    return NAMES[: NAMES.index(procs) + 1] if procs in NAMES else ()


def list_missing(wanted: tuple[str, ...], folder: str = BINARIES) -> tuple[str, ...]:
    """Those that the image does not have."""
    return tuple(name for name in wanted if not os.access(f"{folder}/{name}", os.X_OK))


def find_initdata(folder: str = "/dev") -> str:
    """The first virtio disk that begins with the magic; empty without one. A disk that cannot be read is none."""
    for name in sorted(entry for entry in os.listdir(folder) if entry.startswith("vd")):
        path = f"{folder}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if os.read(fd, len(MAGIC)) == MAGIC:
                return path
        except OSError:
            continue  # a disk without a medium
        finally:
            os.close(fd)
    return ""
