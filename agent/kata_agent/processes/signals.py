"""Signals: which one a process would get, and sending it to one process or to all of a cgroup.

Owns the rule that SIGTERM to an init that would not notice it becomes SIGKILL: the kernel drops it for the init
of a pid namespace. Must not know: containers. Follows: Kata's agent, SignalProcess.
"""

from __future__ import annotations

import os
import signal

from kata_linux import cgroupfs, pidfd, procfs

MAX_SIGNAL = 64  # SIGRTMAX; what is more would not even fit the system call's int
MASKS = ("SigBlk", "SigIgn", "SigCgt")
# A process that forks while we go through the list shows its child in the next round.
MAX_ROUNDS = 8


def choose_signal(number: int, status: dict[str, str]) -> int:
    """SIGKILL instead of a SIGTERM that no mask of /proc/PID/status names; every other signal as it is."""
    if number == signal.SIGTERM and not is_handled(number, status):
        return int(signal.SIGKILL)
    return number


def is_handled(number: int, status: dict[str, str]) -> bool:
    """Whether the process blocks, ignores or catches the signal; a mask that cannot be read says no."""
    if not 1 <= number <= MAX_SIGNAL:
        return False
    return any(_mask(status.get(name, "")) >> (number - 1) & 1 for name in MASKS)


def read_status(pid: int) -> dict[str, str]:
    """/proc/PID/status; nothing when the process is gone."""
    try:
        return procfs.read_status(pid)
    except OSError:
        return {}


def send_to_process(pid: int, start_time: int, number: int) -> None:
    """Signal exactly this process; one that is gone is fine."""
    try:
        fd = pidfd.open_process(pid, start_time)
    except ProcessLookupError:
        return
    try:
        pidfd.send_signal(fd, number)
    except ProcessLookupError:
        pass  # ended between the two calls
    finally:
        os.close(fd)


def send_to_cgroup(cgroup: str, number: int, *, except_pid: int = 0) -> None:
    """Signal every process of the cgroup (a directory) and those below it once; SIGKILL by `cgroup.kill`.

    A cgroup that is gone is fine.
    """
    done = {except_pid}
    try:
        if number == signal.SIGKILL:
            cgroupfs.kill(cgroup)
            return
        for _ in range(MAX_ROUNDS):
            fresh = [pid for pid in _list_processes(cgroup) if pid not in done]
            if not fresh:
                return
            done.update(fresh)
            for pid in fresh:
                _send(pid, number)
    except FileNotFoundError:
        pass


def _list_processes(cgroup: str) -> list[int]:
    return [pid for directory, _, _ in os.walk(cgroup) for pid in cgroupfs.list_processes(directory)]


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # ended since it was listed


def _mask(text: str) -> int:
    try:
        return int(text.strip(), 16)
    except ValueError:
        return 0
