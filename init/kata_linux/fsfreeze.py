"""Freezing file systems: FIFREEZE and FITHAW (ioctl_fsfreeze(2)).

Owns: the two calls. Whoever writes to a frozen file system waits until it thaws, so the caller must not. Errors to
expect: EBUSY (frozen already), EINVAL (not frozen), EOPNOTSUPP (this kind cannot), EPERM.
"""

from __future__ import annotations

import fcntl
import os

from kata_linux._libc import fail

_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878


def freeze(mount_point: str) -> None:
    """Write everything out and let nobody write; returns when all who write have come to a halt."""
    _ioctl(mount_point, _FIFREEZE, "freeze")


def thaw(mount_point: str) -> None:
    """Let writers go on."""
    _ioctl(mount_point, _FITHAW, "thaw")


def _ioctl(mount_point: str, request: int, operation: str) -> None:
    try:
        fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        fail(error.errno or 0, "open", mount_point)
    try:
        fcntl.ioctl(fd, request, 0)
    except OSError as error:
        fail(error.errno or 0, operation, mount_point)
    finally:
        os.close(fd)
