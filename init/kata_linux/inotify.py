"""inotify(7): one descriptor that tells which of many files was modified, or what happened in a folder.

Owns the system calls and the layout of events. Must not know: what is watched. cgroup files raise IN_MODIFY when the
kernel changes them (kernfs_notify). Changes that another machine makes on a shared file system raise nothing.
"""

from __future__ import annotations

import os
import struct

from kata_linux._libc import call
from kata_linux.record import Record

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC are these
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65536


class Event(Record):
    """What happened: the watch's number, IN_* bits, and in a watched folder the name that it happened to."""

    watch: int
    mask: int
    name: str = ""


def open_inotify() -> int:
    """A descriptor without watches; nobody else's to close. EMFILE: the user has too many."""
    return call("inotify_init1", _FLAGS, operation="inotify_init1")


def add_watch(fd: int, path: str, mask: int = IN_MODIFY) -> int:
    """Watch a file or folder; gives the watch's number. ENOSPC: fs.inotify.max_user_watches is reached."""
    return call("inotify_add_watch", fd, path, mask, operation="watch", path=path)


def remove_watch(fd: int, watch: int) -> None:
    """End a watch. EINVAL: the file has gone, and with it the watch."""
    call("inotify_rm_watch", fd, watch, operation="end a watch")


def read_events(fd: int) -> tuple[list[Event], bool]:
    """What happened since the last read, and whether some of it was lost (then look at all)."""
    try:
        data = os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return [], False
    events, lost, offset = [], False, 0
    while offset < len(data):
        watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size
        name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
        offset += length
        lost = lost or bool(mask & IN_Q_OVERFLOW)
        events.append(Event(watch, mask, name))
    return events, lost


def read_watches(fd: int) -> tuple[set[int], bool]:
    """The watches whose files were modified since the last read, and whether some were lost (then look at all)."""
    events, lost = read_events(fd)
    return {event.watch for event in events if event.mask & IN_MODIFY}, lost
