"""Watches a folder, and waits until a path exists, by inotify(7) instead of by asking again and again.

For sockets that another program binds: they cannot be opened, only seen to appear.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_MODIFY = 0x2
IN_CREATE = 0x100
IN_MOVED_TO = 0x80
_IN_NONBLOCK = 0o4000
_IN_CLOEXEC = 0o2000000


@contextmanager
def open_watch(folder: Path, events: int) -> Iterator[int]:
    """A descriptor that becomes readable with the first of these events in the folder; reading it does not block."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"inotify_init1: {os.strerror(ctypes.get_errno())}")
    try:
        if libc.inotify_add_watch(fd, os.fsencode(folder), events) < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"watch: {os.strerror(errno)}", str(folder))
        yield fd
    finally:
        os.close(fd)


def _exists(path: Path) -> bool:
    return path.exists()


async def wait_exists(path: Path) -> None:
    """Return as soon as `path` exists; its folder must exist. Wrap it in `asyncio.timeout`."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    with open_watch(
        path.parent, IN_CREATE | IN_MOVED_TO
    ) as fd:  # watch first, look second: nothing falls between

        def note_change() -> None:
            os.read(fd, 65536)
            changed.set()

        loop.add_reader(fd, note_change)
        try:
            while not _exists(path):
                await changed.wait()
                changed.clear()
        finally:
            loop.remove_reader(fd)


async def wait_readable(fd: int) -> None:
    """Return when a read would not block."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
