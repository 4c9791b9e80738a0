"""Pipes: tee(2), splice(2), their size and what waits in them (pipe(7)).

Owns: the calls. Must not know: whose bytes. BlockingIOError when nothing can move right now; 0 means end of
file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from kata_linux._libc import call, fail

SPLICE_F_MOVE = 1
SPLICE_F_NONBLOCK = 2
SPLICE_F_MORE = 4

_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032


def tee(source: int, target: int, length: int, flags: int = SPLICE_F_NONBLOCK) -> int:
    """Copy up to `length` bytes between two pipes without taking them out of the first."""
    return call("tee", source, target, length, flags, operation="tee")


def splice(source: int, target: int, length: int, flags: int = SPLICE_F_NONBLOCK) -> int:
    """Move up to `length` bytes; one of the two is a pipe."""
    try:
        return os.splice(source, target, length, flags=flags)
    except OSError as error:
        fail(error.errno or 0, "splice")


def set_size(pipe: int, size_bytes: int) -> int:
    """Ask for a capacity; gives the real one. EBUSY when more waits in it, EPERM above fs/pipe-max-size."""
    try:
        return fcntl.fcntl(pipe, _F_SETPIPE_SZ, size_bytes)
    except OSError as error:
        fail(error.errno or 0, f"set pipe size to {size_bytes}")


def read_size(pipe: int) -> int:
    """The capacity of the pipe in bytes."""
    return fcntl.fcntl(pipe, _F_GETPIPE_SZ)


def read_waiting(pipe: int) -> int:
    """How many bytes wait in the pipe."""
    waiting: int = struct.unpack("=i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))[0]
    return waiting
