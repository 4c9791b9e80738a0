"""Gives everything in a volume to a group: `fs_group` of the wire.

Owns: the walk and the bits. Must not know: mounts. Follows: Kata's agent 3.21, "fs_group": the owner stays, bits are
only added. Links are neither followed nor changed (in Kata's agent a volume with a link to `/` hands over the guest).
"""

from __future__ import annotations

import os
import stat

READ_WRITE = 0o660
READ_ONLY = 0o440
DIRECTORY = 0o2110

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def change_group(path: str, gid: int, *, read_only: bool, on_mismatch_only: bool) -> None:
    """Hand over everything at and below `path`, children before their folder."""
    mask = READ_ONLY if read_only else READ_WRITE
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        root = os.fstat(fd)
        wanted = mask | (DIRECTORY if stat.S_ISDIR(root.st_mode) else 0)
        if on_mismatch_only and root.st_gid == gid and root.st_mode & wanted == wanted:
            return
        _hand_over(fd, root, gid, mask)
    finally:
        os.close(fd)


def _hand_over(fd: int, found: os.stat_result, gid: int, mask: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        for name in os.listdir(fd):
            _hand_over_entry(fd, name, gid, mask)
        mask |= DIRECTORY
    os.fchown(fd, -1, gid)
    os.fchmod(fd, stat.S_IMODE(found.st_mode) | mask)


def _hand_over_entry(parent_fd: int, name: str, gid: int, mask: int) -> None:
    found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        return
    if stat.S_ISDIR(found.st_mode):
        fd = os.open(name, _OPEN, dir_fd=parent_fd)
        try:
            _hand_over(fd, os.fstat(fd), gid, mask)
        finally:
            os.close(fd)
        return
    # Not opened: that would wake devices and wait for pipes.
    os.chown(name, -1, gid, dir_fd=parent_fd, follow_symlinks=False)
    if stat.S_ISREG(found.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            os.fchmod(fd, stat.S_IMODE(found.st_mode) | mask)
        finally:
            os.close(fd)
