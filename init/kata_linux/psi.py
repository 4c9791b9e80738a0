"""Pressure stall information (Documentation/accounting/psi.rst): how long tasks waited, and being told of it.

Owns: the format of a pressure file and of its triggers. Must not know: what is done about pressure. A kernel booted
with `psi=0` has no such files (ENOENT), one with CONFIG_PSI_DEFAULT_DISABLED gives EOPNOTSUPP.
"""

from __future__ import annotations

import os
import select

from kata_linux._libc import fail
from kata_linux.record import Record

SYSTEM = "/proc/pressure"
RESOURCES = ("cpu", "io", "memory")
_READ_BYTES = 512  # two lines of some 60


class Line(Record):
    """Shares of time in percent over 10, 60 and 300 s, and the time lost so far in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


def parse(text: str) -> dict[str, Line]:
    """The lines of a pressure file by their kind: `some` task waited, or the `full` lot. Raises ValueError."""
    lines = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        fields = dict(pair.split("=", 1) for pair in pairs)
        try:
            avg10, avg60, avg300 = (float(fields[name]) for name in ("avg10", "avg60", "avg300"))
            lines[kind] = Line(avg10, avg60, avg300, int(fields["total"]))
        except KeyError as error:
            raise ValueError(f"not a line of a pressure file: {line!r}") from error
    return lines


def read(path: str) -> dict[str, Line]:
    """Read and parse `/proc/pressure/RESOURCE` or a cgroup's `RESOURCE.pressure`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        fail(error.errno or 0, "open", path)
    try:
        return parse(os.read(fd, _READ_BYTES).decode("ascii"))
    except OSError as error:
        fail(error.errno or 0, "read", path)
    finally:
        os.close(fd)


class Trigger:
    """Becomes readable when `kind` tasks waited for `stall_us` within `window_us` (0.5 to 10 s).

    The kernel tells at most once in a window, and by POLLPRI alone, which event loops do not ask for: the descriptor
    that they see is an epoll around it. Being seen readable is the event and uses it up; there is nothing to read.
    EINVAL: the times do not fit (without CAP_SYS_RESOURCE the window must be a multiple of 2 s); EOPNOTSUPP: no
    pressure information.
    """

    def __init__(self, path: str, kind: str, stall_us: int, window_us: int) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            fail(error.errno or 0, "open", path)
        try:
            os.write(self._file, f"{kind} {stall_us} {window_us}\0".encode())
            self._epoll = select.epoll(1)
        except OSError as error:
            os.close(self._file)
            fail(error.errno or 0, f"set the trigger {kind} {stall_us} {window_us}", path)
        self._epoll.register(self._file, select.EPOLLPRI)

    def fileno(self) -> int:
        """What becomes readable."""
        return self._epoll.fileno()

    def close(self) -> None:
        """The kernel forgets the trigger."""
        self._epoll.close()
        os.close(self._file)
