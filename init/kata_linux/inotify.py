"""inotify(7): one descriptor that tells which of many files was modified.

Owns the system calls and the layout of events. Must not know: what is watched. cgroup files raise IN_MODIFY when the
kernel changes them (kernfs_notify).
"""

from __future__ import annotations

import os
import struct

from kata_linux._libc import call

IN_MODIFY = 0x2
IN_Q_OVERFLOW = 0x4000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC are these
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65536


def open_inotify() -> int:
    """A descriptor without watches; nobody else's to close. EMFILE: the user has too many."""
    return call("inotify_init1", _FLAGS, operation="inotify_init1")


def add_watch(fd: int, path: str) -> int:
    """Watch a file for modification; gives the watch's number. ENOSPC: fs.inotify.max_user_watches is reached."""
    return call("inotify_add_watch", fd, path, IN_MODIFY, operation="watch", path=path)


def remove_watch(fd: int, watch: int) -> None:
    """End a watch. EINVAL: the file has gone, and with it the watch."""
    call("inotify_rm_watch", fd, watch, operation="end a watch")


def read_watches(fd: int) -> tuple[set[int], bool]:
    """The watches whose files were modified since the last read, and whether some were lost (then look at all)."""
    try:
        data = os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return set(), False
    modified, lost, offset = set(), False, 0
    while offset < len(data):
        watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size + length
        lost = lost or bool(mask & IN_Q_OVERFLOW)
        if mask & IN_MODIFY:
            modified.add(watch)
    return modified, lost
