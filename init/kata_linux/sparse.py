"""Sparse files: where their data is, and holes punched into them (lseek(2), fallocate(2)).

Owns: the calls. Must not know: what a file holds.
"""

from __future__ import annotations

import errno
import os

from kata_linux._libc import call

_KEEP_SIZE = 1
_PUNCH_HOLE = 2


def punch(fd: int, offset: int, length: int) -> None:
    """Give back what these bytes take; they read as zeros, the size stays. Whole pages only are freed."""
    if length > 0:
        call("fallocate", fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length, operation="punch hole")


def find_data(fd: int, otherwise: int) -> int:
    """The offset of the first data; `otherwise` when there is none. The file's position stays."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(own, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return otherwise
    finally:
        os.close(own)
