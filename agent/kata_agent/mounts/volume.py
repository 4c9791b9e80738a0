"""A mounted volume's figures, and growing it.

Owns: which file systems grow, and what is refused before the kernel is asked. Must not know: the wire. Blocking: the
figures of a share come from a host that may not answer; growing takes as long as the kernel needs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kata_agent.errors import InvalidRequest, NotFound, NotSupported
from kata_agent.mounts import place, plan
from kata_linux import growfs, mountinfo
from kata_linux.record import Record

GROWING = ("ext4", "xfs")


class Usage(Record):
    """Bytes or inodes. `available` counts what only root may use, as in Kata's agent."""

    total: int
    available: int

    @property
    def used(self) -> int:
        """The rest."""
        return self.total - self.available


class DiskTooSmall(InvalidRequest):
    """The disk has not the size that is wanted, or not yet: the kernel hears of a grown disk after the host's call."""

    def __init__(self, text: str, device: str) -> None:
        """`device` is the disk's `MAJOR:MINOR`."""
        super().__init__(text)
        self.device = device


def read_usage(path: str) -> tuple[Usage, Usage]:
    """Bytes and inodes of the file system at `path`."""
    plan.check_path(path)
    with place.open_place(path) as opened:
        found = os.statvfs(opened)
    return (
        Usage(found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize),
        Usage(found.f_files, found.f_ffree),
    )


def resize(path: str, size: int) -> None:
    """Grow the file system mounted at `path` to so many bytes; 0 is all that its disk has. `DiskTooSmall`."""
    plan.check_path(path)
    found = mountinfo.find_mount(mountinfo.read_mounts(), path.rstrip("/"))
    if found is None:
        raise NotFound(f"resize {path}: nothing is mounted there")
    if found.fstype not in GROWING:
        raise NotSupported(
            f"resize {path}: a {found.fstype} cannot be grown, only {' and '.join(GROWING)} can"
        )
    disk = growfs.read_disk_size(found.device)
    if size > disk:
        text = f"its disk {found.source} has only {disk} bytes: let the host grow the disk first"
        raise DiskTooSmall(f"resize {path} to {size} bytes: {text}", found.device)
    with _open_folder(path) as fd:
        if found.fstype == "xfs":
            _grow_xfs(fd, path, size or disk)
        else:
            _grow_ext4(fd, path, size or disk)


def _grow_ext4(fd: int, path: str, size: int) -> None:
    try:
        growfs.grow_ext4(fd, size // os.fstatvfs(fd).f_frsize, path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _no_shrinking(path, size, "ext4") from error


def _grow_xfs(fd: int, path: str, size: int) -> None:
    now = growfs.read_xfs(fd, path)
    blocks = size // now.block_bytes
    if blocks < now.blocks:
        raise _no_shrinking(path, size, "xfs")
    if blocks > now.blocks:
        growfs.grow_xfs(fd, blocks, now.inodes_percent, path)


def _no_shrinking(path: str, size: int, fstype: str) -> InvalidRequest:
    return InvalidRequest(f"resize {path} to {size} bytes: a mounted {fstype} cannot be made smaller")


@contextmanager
def _open_folder(path: str) -> Iterator[int]:
    with place.open_place(path) as opened:
        fd = os.open(opened, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
