"""Signals as a descriptor: signalfd(2) and the mask of blocked signals.

Owns: the calls and the layout of a signal set. Must not know: what a signal means. The `signal` module is not
used: its enums cost an idle PID 1 0.7 MB and 7 ms, and a handler in Python runs between any two of its
instructions.
"""

from __future__ import annotations

import ctypes
import os
import struct

from kata_linux._libc import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SIGHUP = 1
SIGINT = 2
SIGKILL = 9
SIGTERM = 15
SIGCHLD = 17

_SET_BYTES = 128  # sigset_t of the C library; the kernel reads the first 8
_SIG_BLOCK = 0
_SIG_SETMASK = 2
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_RECORD_BYTES = 128


def block(numbers: Iterable[int]) -> bytes:
    """Block these signals too; gives the mask as it was, for `restore`."""
    old = ctypes.create_string_buffer(_SET_BYTES)
    call("sigprocmask", _SIG_BLOCK, _pack(numbers), old, operation="sigprocmask")
    return old.raw


def restore(mask: bytes) -> None:
    """Set the mask that `block` gave."""
    call("sigprocmask", _SIG_SETMASK, mask, None, operation="sigprocmask")


def open_signalfd(numbers: Iterable[int]) -> int:
    """A descriptor that is readable while one of these (blocked) signals waits."""
    return call("signalfd", -1, _pack(numbers), _FLAGS, operation="signalfd")


def read_signals(fd: int) -> list[tuple[int, int]]:
    """The signals that wait, as `(number, sender's pid)`; none when there are none."""
    try:
        data = os.read(fd, _RECORD_BYTES * 32)
    except BlockingIOError:
        return []
    return [struct.unpack_from("=Iii I", data, start)[::3] for start in range(0, len(data), _RECORD_BYTES)]


def _pack(numbers: Iterable[int]) -> bytes:
    bits = 0
    for number in numbers:
        bits |= 1 << (number - 1)
    return struct.pack("=Q", bits).ljust(_SET_BYTES, b"\0")
