"""Reaping: the one place that takes ended children from the kernel, and the record of how each ended.

Owns: `Exit` and `reap`. Must not know: who waits for which exit, nor how exits travel. The same code runs in
PID 1 and, stand-alone, in the agent (a child subreaper there). Follows docs/architecture.md, seam 2.
"""

from __future__ import annotations

import os
import time

from kata_linux import procfs
from kata_linux.record import Record

BATCH = 1024


class Exit(Record):
    """How a process `(pid, start_time)` ended: exactly one of `code` (0-255) and `signal` (> 0) is not None.

    `start_time` is field 22 of /proc/PID/stat, 0 when it could not be read; `time_ns` is CLOCK_REALTIME when
    reaped.
    """

    pid: int
    start_time: int
    code: int | None
    signal: int | None
    time_ns: int

    @property
    def status(self) -> int:
        """The exit status as a shell tells it: the code, or 128 + the signal."""
        return 128 + self.signal if self.signal is not None else self.code or 0


def reap(limit: int = BATCH) -> list[Exit]:
    """Take every child that has ended, without blocking; a full batch of `limit` means: ask again."""
    exits: list[Exit] = []
    while len(exits) < limit:
        entry = reap_one(os.P_ALL, 0)
        if entry is None:
            break
        exits.append(entry)
    return exits


def reap_one(kind: int, number: int) -> Exit | None:
    """Take one ended child of `waitid`'s kind (os.P_ALL, P_PID, P_PIDFD), None when there is none now.

    The zombie is looked at before it is taken: its start time can be read only while it is there.
    """
    try:
        found = os.waitid(kind, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        start_time = _read_start_time(found.si_pid)
        os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    exited = found.si_code == os.CLD_EXITED
    return Exit(
        pid=found.si_pid,
        start_time=start_time,
        code=found.si_status if exited else None,
        signal=None if exited else found.si_status,
        time_ns=time.time_ns(),
    )


def _read_start_time(pid: int) -> int:
    try:
        return procfs.read_start_time(pid)
    except (OSError, ValueError):
        return 0  # no /proc (yet): the exit itself matters more than its identity
