"""The one place that reaches the C library: system calls that Python 3.11 has no wrapper for.

Owns: argument conversion and the errors' shape. Every failure is an `OSError` with the errno, `strerror`
holding "operation: text" and `filename` the path, so that a caller can tell a mount from an unmount without a
traceback. Must not know: what any call is used for.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False  # `typing` costs half a megabyte; type checkers know this name
if TYPE_CHECKING:
    from typing import NoReturn

    Path = str | os.PathLike[str]
    Argument = int | Path | bytes | ctypes.Array[ctypes.c_char] | None

AT_FDCWD = -100

_library = ctypes.CDLL(None, use_errno=True)


def fail(number: int, operation: str, path: Path | None = None, path2: Path | None = None) -> NoReturn:
    """Raise the `OSError` subclass of this errno, telling operation and path."""
    raise OSError(number, f"{operation}: {os.strerror(number)}", path, None, path2)


def call(
    name: str, *arguments: Argument, operation: str, path: Path | None = None, path2: Path | None = None
) -> int:
    """Call the C function `name`; -1 becomes an `OSError`, EINTR is tried again.

    Integers go as C `long`, which every Linux ABI passes like a narrower one; paths are encoded for the file
    system, `bytes` are buffers.
    """
    function = getattr(_library, name)
    converted = [_convert(argument) for argument in arguments]
    while True:
        result: int = function(*converted)
        if result != -1:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            fail(number, operation, path, path2)


def system_call(number: int, *arguments: Argument, operation: str, path: Path | None = None) -> int:
    """Call the kernel by system call number, for what the C library does not wrap."""
    return call("syscall", number, *arguments, operation=operation, path=path)


def _convert(argument: Argument) -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    if argument is None or isinstance(argument, (bytes, ctypes.Array)):
        return argument
    path = os.fsencode(argument)
    if b"\0" in path:
        raise ValueError(f"embedded null byte in {argument!r}")  # C would see a shorter path than was checked
    return path
