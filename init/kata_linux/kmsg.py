"""Writing to the kernel log: /dev/kmsg (Documentation/ABI/testing/dev-kmsg).

Owns: the record format and its limit. Must not know: what is worth telling. The kernel drops records of user
space beyond ten in five seconds unless /proc/sys/kernel/printk_devkmsg is `on`.
"""

from __future__ import annotations

import os

ERROR = 3
WARNING = 4
NOTICE = 5
INFO = 6

_FACILITY_DAEMON = 3 << 3
_RECORD_LIMIT = 960  # the kernel refuses records beyond 1024 bytes less its prefix


class KernelLog:
    """An open kernel log; `path` may be any file, for tests and for consoles."""

    __slots__ = ("_fd", "_name")

    def __init__(self, name: str, path: str = "/dev/kmsg") -> None:
        """`name` begins each line. OSError when the log cannot be opened."""
        self._name = name.encode()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY)

    def write(self, level: int, text: str) -> None:
        """Write a record for each line of `text`; a long line becomes several."""
        for line in text.split("\n"):
            data = line.encode("utf-8", "backslashreplace")
            for start in range(0, max(len(data), 1), _RECORD_LIMIT):
                part = data[start : start + _RECORD_LIMIT]
                os.write(self._fd, b"<%d>%s: %s\n" % (_FACILITY_DAEMON | level, self._name, part))

    def close(self) -> None:
        """Close the log."""
        os.close(self._fd)
