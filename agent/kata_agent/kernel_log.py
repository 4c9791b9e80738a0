"""The kernel's own messages, passed to the agent's log.

Owns the open /dev/kmsg. Only the kernel's records pass: what programs write there (PID 1 does) is on the console
already. Must not know: where the log goes. Follows: Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata_agent.log import Log

PATH = "/dev/kmsg"
RECORDS_PER_TURN = 64
_RECORD_LIMIT = 8192
# By the kernel's priorities, 0 to 7.
LEVELS = ("critical", "critical", "critical", "error", "warn", "info", "info", "debug")


class KernelLog:
    """Needs the running loop; `close` ends it."""

    def __init__(self, log: Log, path: str = PATH, *, only_new: bool = False) -> None:
        """`only_new`: from now on, for an agent whose predecessor has passed the rest. OSError."""
        self._log = log
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if only_new:
            os.lseek(self._fd, 0, os.SEEK_END)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Stop passing. Twice is fine."""
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _read(self) -> None:
        for _ in range(RECORDS_PER_TURN):
            try:
                record = os.read(self._fd, _RECORD_LIMIT)
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._log.warning("kernel", "messages were lost: the kernel's log has wrapped around")
                continue
            except OSError as error:
                self._end(str(error))
                return
            if not record:
                self._end("end of file")
                return
            pass_record(record, self._log)

    def _end(self, reason: str) -> None:
        self._log.error("kernel", "the kernel's messages end here", reason=reason)
        self.close()


def pass_record(record: bytes, log: Log) -> None:
    """Log one record, `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT` and lines of a dictionary behind it."""
    head, _, rest = record.decode("utf-8", "backslashreplace").partition(";")
    fields = head.split(",")
    if len(fields) < 3 or not all(field.isdecimal() for field in fields[:3]):
        log.warning("kernel", "a record of the kernel was not understood", record=record[:80])
        return
    priority = int(fields[0])
    if priority >> 3:
        return  # another facility than the kernel's
    seconds, rest_us = divmod(int(fields[2]), 1_000_000)
    log.write(LEVELS[priority & 7], "kernel", rest.partition("\n")[0], uptime=f"{seconds}.{rest_us:06d}")
