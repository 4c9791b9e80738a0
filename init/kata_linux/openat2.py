"""Opening a path that somebody else chose: openat2(2), Linux 5.6.

Owns: the call and its resolution flags. Must not know: which paths are trusted. The kernel resolves, so there
is no moment between a check and a use: a component that leaves the root gives EXDEV, a forbidden link ELOOP.
"""

from __future__ import annotations

import os
import struct

from kata_linux._libc import fail, system_call

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

_SYS_OPENAT2 = 437  # one number on every architecture
# EAGAIN says that a rename or mount happened meanwhile and `..` could not be decided; the manual says: again.
_ATTEMPTS = 100


def openat2(dir_fd: int, path: str, flags: int, mode: int = 0, *, resolve: int = RESOLVE_BENEATH) -> int:
    """Open `path` below `dir_fd`, close-on-exec. RESOLVE_IN_ROOT makes `dir_fd` the `/` of `..` and links."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    attempts = _ATTEMPTS
    while True:
        attempts -= 1
        try:
            return system_call(_SYS_OPENAT2, dir_fd, path, how, len(how), operation="openat2", path=path)
        except BlockingIOError:
            if not attempts:
                raise


def open_root(path: str) -> int:
    """A descriptor of a folder to resolve below; it opens nothing else."""
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        fail(error.errno or 0, "open folder", path)
