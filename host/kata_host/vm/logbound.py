"""Bounds the logs in a machine's folder: the guest's console above all, which a guest could fill a disk with.

Above the limit the oldest bytes are given back to the file system as a hole, so the newest stay, offsets keep their
meaning, and the program that writes knows nothing of it. Follows decision 0043, fallocate(2) and inotify(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from kata_host.vm.watch import IN_MODIFY, open_watch

LIMIT_BYTES = 16 << 20
KEPT_BYTES = 8 << 20
PAUSE_S = 1.0
"""A busy console wakes the launcher no more often."""
PATTERN = "*.log"

_BLOCK_BYTES = 512  # of st_blocks
_PAGE_BYTES = 4096
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


async def pause() -> None:
    """Between two looks."""
    await asyncio.sleep(PAUSE_S)


async def bound_logs(
    folder: Path,
    limit_bytes: int = LIMIT_BYTES,
    kept_bytes: int = KEPT_BYTES,
    *,
    between: Callable[[], Awaitable[None]] = pause,
) -> None:
    """Keep every log in the folder below the limit, until cancelled. Between two looks it may grow beyond it."""
    loop = asyncio.get_running_loop()
    with open_watch(folder, IN_MODIFY) as fd:
        try:
            while True:
                give_back(folder, limit_bytes, kept_bytes)
                changed = asyncio.Event()
                loop.add_reader(fd, changed.set)
                await changed.wait()
                loop.remove_reader(fd)
                await between()
                os.read(fd, 65536)
        finally:
            loop.remove_reader(fd)


def give_back(folder: Path, limit_bytes: int, kept_bytes: int) -> None:
    """Cut every log that holds more than the limit to the newest `kept_bytes`, rounded up to a page."""
    for path in folder.glob(PATTERN):
        status = path.stat()
        if status.st_blocks * _BLOCK_BYTES > limit_bytes:
            _punch(path, (status.st_size - kept_bytes) // _PAGE_BYTES * _PAGE_BYTES)


def _punch(path: Path, length: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        mode = _PUNCH_HOLE | _KEEP_SIZE
        if libc.fallocate(fd, mode, ctypes.c_int64(0), ctypes.c_int64(length)) == 0:
            return
        number = ctypes.get_errno()
        if number != errno.EOPNOTSUPP:
            raise OSError(number, f"punch a hole: {os.strerror(number)}", str(path))
        os.ftruncate(fd, 0)  # a file system without holes loses the newest, too: still better than a full one
    finally:
        os.close(fd)
