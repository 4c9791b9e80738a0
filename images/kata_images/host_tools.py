"""Programs that the machine which runs VMs needs and its Debian release does not have.

vhost-device-vsock gives a guest vsock without vhost-vsock in the host's kernel. It is in Debian sid only; its one
binary needs nothing but libc, so it is unpacked beside the build, not installed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kata_images.apt import Apt, unpack
from kata_images.cache import Cache
from kata_images.command import run
from kata_images.native_root import place_program

SUITE = "sid"
TOOLS = {"vhost-device-vsock": "usr/bin/vhost-device-vsock"}


def missing_tools(folder: Path) -> list[str]:
    """Return the tools that are neither installed nor in the tools folder."""
    return [name for name in TOOLS if shutil.which(name) is None and not (folder / name).exists()]


def fetch_tool(name: str, apt: Apt, cache: Cache, folder: Path) -> str:
    """Put a tool into the folder, run it once, and return the version it tells."""
    archive = apt.resolve([name], dependencies=False)[0]
    files = apt.fetch([archive])
    with cache.temporary("tools") as root:
        unpack(files[archive.sha256], root)
        run([str(root / TOOLS[name]), "--version"], deadline_s=20)
        place_program(root / TOOLS[name], folder / name)
    return archive.version
