"""Gives everything in a volume to a group: `fs_group` of the wire.

Owns: the walk and the bits. Must not know: mounts. Follows: Kata's agent 3.21, "fs_group": the owner stays, bits are
only added. Links are neither followed nor changed (in Kata's agent a volume with a link to `/` hands over the guest).
Every entry is opened once, without following and without waking what it is (O_PATH), and changed through that
descriptor: who swaps names meanwhile changes nothing.
"""

from __future__ import annotations

import os
import stat

READ_WRITE = 0o660
READ_ONLY = 0o440
DIRECTORY = 0o2110

_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def change_group(path: str, gid: int, *, read_only: bool, on_mismatch_only: bool) -> None:
    """Hand over everything at and below `path`, children before their folder."""
    mask = READ_ONLY if read_only else READ_WRITE
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        root = os.fstat(fd)
        wanted = mask | (DIRECTORY if stat.S_ISDIR(root.st_mode) else 0)
        if on_mismatch_only and root.st_gid == gid and root.st_mode & wanted == wanted:
            return
        if stat.S_ISDIR(root.st_mode):
            _hand_over_content(fd, gid, mask)
        _hand_over(fd, root, gid, mask)
    finally:
        os.close(fd)


def _hand_over_content(fd: int, gid: int, mask: int) -> None:
    """Everything in a folder, without recursion: how deep it is, a container chose."""
    open_folders = [_reopen(fd)]
    names = [os.listdir(open_folders[0])]
    try:
        while open_folders:
            if names[-1]:
                folder = _enter(open_folders[-1], names[-1].pop(), gid, mask)
                if folder is not None:
                    open_folders.append(folder)
                    names.append(os.listdir(folder))
                continue
            names.pop()
            done = open_folders.pop()
            try:
                if open_folders:  # the root is its caller's
                    _hand_over(done, os.fstat(done), gid, mask)
            finally:
                os.close(done)
    finally:
        for left in open_folders:
            os.close(left)


def _enter(parent_fd: int, name: str, gid: int, mask: int) -> int | None:
    """Hand over an entry; a folder is opened instead, and handed over after what is in it."""
    fd = os.open(name, _ENTRY, dir_fd=parent_fd)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            return _reopen(fd)
        if not stat.S_ISLNK(found.st_mode):
            _hand_over(fd, found, gid, mask)
        return None
    finally:
        os.close(fd)


def _reopen(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", _FOLDER)


def _hand_over(fd: int, found: os.stat_result, gid: int, mask: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        mask |= DIRECTORY
    place = f"/proc/self/fd/{fd}"
    os.chown(place, -1, gid)
    os.chmod(place, stat.S_IMODE(found.st_mode) | mask)
