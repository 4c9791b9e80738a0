"""Structured log: one JSON object a line on standard output, as Kata's log parser reads it.

Owns: the record's form, a write that never blocks the loop, what a slow terminal has yet to take. Must not know:
what is logged about (callers pass fields), `logging` and its handlers (0.3 MB and a lock for nothing). Follows: the
record keys of Kata's agent 3.21. Never pass request contents, environment values or file data.
"""

from __future__ import annotations

import os
import select
import time

# The C half of the standard library's json, without the 0.2 MB of its pure Python half.
from _json import encode_basestring_ascii as _quote
from typing import TYPE_CHECKING

from kata_protocols.log_record import LEVELS, ORDER, timestamp

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

# A write of at most PIPE_BUF to a pipe is whole, and does not block once the pipe polls writable.
LINE_LIMIT_BYTES = select.PIPE_BUF
_VALUE_LIMIT = 1500
_EARLY_LIMIT = 64
# What waits for a serial line, which takes 16 bytes with each interrupt; eight containers made at once say as much.
UNSENT_LIMIT_BYTES = 65536


class Log:
    """Writes records to a descriptor. A reader that does not keep up loses lines and is told how many.

    A terminal takes little at a time: what is too much for it waits, and follows from the running event loop.
    """

    def __init__(self, fd: int = 1, level: str = "info") -> None:
        self._fd = _reopen_terminal(fd)
        self._waits = self._fd != fd
        self._unsent = bytearray()
        fd = self._fd
        self._threshold = ORDER.index(level)
        self._dropped = 0
        self._sinks: list[Callable[[bytes], None]] = []
        self._early: list[bytes] | None = []
        self._is_cut = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    @property
    def level(self) -> str:
        """The least severe level that is written."""
        return ORDER[self._threshold]

    def set_level(self, level: str) -> None:
        """Records below `level` are not written from now on."""
        self._threshold = ORDER.index(level)

    def attach(self, sink: Callable[[bytes], None]) -> None:
        """Have each line from now on, and those of the start, go to `sink` too, which must not block or raise."""
        for line in self._early or ():
            sink(line)
        self._sinks.append(sink)

    def forget_early(self) -> None:
        """Nobody will attach any more who must hear of the start."""
        self._early = None

    def debug(self, subsystem: str, message: str, **fields: object) -> None:
        """Write a record that helps to find a defect."""
        self.write("debug", subsystem, message, **fields)

    def info(self, subsystem: str, message: str, **fields: object) -> None:
        """Write a record of a life-cycle change."""
        self.write("info", subsystem, message, **fields)

    def warning(self, subsystem: str, message: str, **fields: object) -> None:
        """Write a record of something that went wrong without failing the work."""
        self.write("warn", subsystem, message, **fields)

    def error(self, subsystem: str, message: str, **fields: object) -> None:
        """Write a record of a defect."""
        self.write("error", subsystem, message, **fields)

    def write(self, level: str, subsystem: str, message: str, **fields: object) -> None:
        """Write one record, or count it as dropped when the reader is behind or gone."""
        if ORDER.index(level) < self._threshold:
            return
        stamp = (time.time_ns(), os.getpid())
        line = render(level, subsystem, message, fields, *stamp)
        for sink in self._sinks:
            sink(line)
        if self._early is not None and len(self._early) < _EARLY_LIMIT:
            self._early.append(line)
        if self._dropped:  # by this descriptor's reader; sinks count their own
            line = render(level, subsystem, message, {**fields, "dropped-records": self._dropped}, *stamp)
        self._dropped = 0 if self._put(line) else self._dropped + 1

    def _put(self, line: bytes) -> bool:
        if self._unsent:
            return self._keep(line)
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return self._keep(line)
            if self._is_cut:
                line = b"\n" + line
            count = os.write(self._fd, line)
        except OSError:
            return False  # no console, or its reader has gone: there is nowhere to say it
        self._is_cut = count < len(line) and not self._keep(line[count:])
        return True

    def _keep(self, line: bytes) -> bool:
        """Let it wait for its turn, if it may."""
        if not self._waits or len(self._unsent) + len(line) > UNSENT_LIMIT_BYTES:
            return False
        if not self._unsent:
            from asyncio import get_running_loop

            try:
                loop = get_running_loop()
            except RuntimeError:
                return False  # before the loop runs, or beside it
            loop.add_writer(self._fd, self._send, loop)
        self._unsent += line
        return True

    def _send(self, loop: AbstractEventLoop) -> None:
        try:
            count = os.write(self._fd, self._unsent)
        except BlockingIOError:
            return
        except OSError:
            count = len(self._unsent)  # the console has gone
        del self._unsent[:count]
        if not self._unsent:
            loop.remove_writer(self._fd)


def render(
    level: str, subsystem: str, message: str, fields: dict[str, object], time_ns: int, pid: int
) -> bytes:
    """One record as a line of at most `LINE_LIMIT_BYTES`. Later fields win over the fixed ones."""
    record = {
        "msg": message,
        "level": LEVELS[level],
        "ts": timestamp(time_ns),
        "version": "0.1.0",
        "subsystem": subsystem,
        "pid": str(pid),
        "name": "kata-agent",
        "source": "agent",
    }
    record.update((key, str(value)) for key, value in fields.items())
    limit = _VALUE_LIMIT
    while True:
        items = (f"{_quote(key)}:{_quote(_shorten(value, limit))}" for key, value in record.items())
        line = ("{" + ",".join(items) + "}\n").encode()
        if len(line) <= LINE_LIMIT_BYTES or limit < len("ts"):
            return line[:LINE_LIMIT_BYTES]
        limit //= 2


def _reopen_terminal(fd: int) -> int:
    """A terminal as a file of our own that does not block: a serial line can be slower than what is told.

    The flag belongs to the open file, which others have too; hence a new one. Pipes are polled instead, as a write
    of at most PIPE_BUF is whole then, and other files do not block.
    """
    if not os.isatty(fd):
        return fd
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return fd  # a console that cannot be opened again may block, which is better than no log and no agent


def _shorten(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[:limit] + "..."
