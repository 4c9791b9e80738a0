"""What the kernel prints into its log while something is tried: /dev/kmsg from its end on (ABI/testing/dev-kmsg).

Owns: the descriptor and the records' form. Must not know: what is tried, which lines are about it. Others' lines are
among them, for there is one log.
"""

from __future__ import annotations

import errno
import os

_RECORD_BYTES = 8192  # a smaller buffer is refused with EINVAL
_RECORDS = 64
"""More are not looked at: who asks has a line or two in mind."""


class KernelTail:
    """The log from now on. OSError where this process may not read it."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> list[str]:
        """The kernel's own lines since then; those that processes wrote are left out."""
        lines = []
        for _ in range(_RECORDS):
            try:
                line = parse_record(os.read(self._fd, _RECORD_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if (
                    error.errno != errno.EPIPE
                ):  # records were overwritten; the next read has the oldest there is
                    raise
                continue
            if line is not None:
                lines.append(line)
        return lines

    def close(self) -> None:
        """Close the log."""
        os.close(self._fd)


def parse_record(data: bytes) -> str | None:
    """The text of a record, None when it is not the kernel's. ValueError for what is no record."""
    prefix, _, text = data.partition(b";")
    facility = int(prefix.partition(b",")[0]) >> 3
    return None if facility else text.partition(b"\n")[0].decode(errors="replace")
