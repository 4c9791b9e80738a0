"""Fresh entropy for the kernel: random(4).

A clone of a saved machine has its siblings' random state. The bytes are written, credited, and the generator made to
use them at once; each step's failure is told, because a guest that believes in entropy it has not is worse than one
that knows.
"""

from __future__ import annotations

import fcntl
import os
import struct

from kata_agent.errors import InvalidRequest
from kata_linux._libc import fail
from kata_linux.write import write_all

DEVICE = "/dev/random"
RNDADDTOENTCNT = 0x40045201
RNDRESEEDCRNG = 0x5207
BITS_PER_BYTE = 8


def reseed(data: bytes) -> None:
    """Mix `data` in, credit its bits, reseed. EPERM without CAP_SYS_ADMIN."""
    if not data:
        raise InvalidRequest("reseed: no data")
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        write_all(fd, data)
        # Kata's agent credits the number of bytes, which the kernel takes for bits: an eighth of what was given.
        _ioctl(fd, RNDADDTOENTCNT, "credit entropy", struct.pack("=i", len(data) * BITS_PER_BYTE))
        _ioctl(fd, RNDRESEEDCRNG, "reseed")
    finally:
        os.close(fd)


def _ioctl(fd: int, request: int, operation: str, argument: bytes = b"") -> None:
    try:
        fcntl.ioctl(fd, request, argument) if argument else fcntl.ioctl(fd, request)
    except OSError as error:
        fail(error.errno or 0, operation, DEVICE)
