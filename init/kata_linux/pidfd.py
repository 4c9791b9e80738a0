"""Processes by descriptor: pidfd_open(2), pidfd_send_signal(2). A pidfd never means another process.

Owns: the calls. Must not know: who waits for whom (nobody reaps by pidfd here: the one reaper is
`kata_init.exits`).
"""

from __future__ import annotations

import os

from kata_linux import procfs
from kata_linux._libc import fail


def open_pidfd(pid: int) -> int:
    """A close-on-exec descriptor of the process; readable when it has ended. ESRCH when it is gone."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        fail(error.errno or 0, "pidfd_open", str(pid))


def open_process(pid: int, start_time: int, *, proc: str = "/proc") -> int:
    """A pidfd of exactly this process; ProcessLookupError when the pid belongs to another one by now."""
    fd = open_pidfd(pid)
    try:
        found = procfs.read_start_time(pid, proc=proc)
    except (FileNotFoundError, ProcessLookupError):
        found = -1
    except BaseException:
        os.close(fd)
        raise
    if found != start_time:
        os.close(fd)
        raise ProcessLookupError(3, "pidfd_open: No such process", str(pid))
    return fd


def send_signal(pidfd: int, number: int) -> None:
    """Signal the process; ESRCH when it has been reaped. Signal 0 asks whether it is there."""
    import signal  # the enum behind it is loaded only by who signals

    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError as error:
        fail(error.errno or 0, "pidfd_send_signal", f"pidfd {pidfd}")
