"""Start a program as a child: exact descriptors, default signals, nothing waited for.

`posix_spawn` runs as vfork in glibc: no page tables are copied and no Python runs in the child. Every descriptor
of ours is close-on-exec, so the child has what `stdio` names and no more. Who reaps it: the agent's one reaper.
"""

from __future__ import annotations

import os
import signal

from kata_linux import procfs
from kata_linux.record import Record

# An interpreter ignores SIGPIPE and SIGXFSZ, and a mask may be inherited from whoever started us.
# 32 and 33 are the C library's own; SIGKILL and SIGSTOP cannot be set.
_DEFAULTED = [
    number for number in range(1, signal.NSIG) if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33)
]


class Child(Record):
    """A process: the start time (field 22 of /proc/PID/stat) tells it from a later one of the same pid."""

    pid: int
    start_time: int


def spawn(argv: list[str], stdio: tuple[int, int, int], env: dict[str, str] | None = None) -> Child:
    """Run argv[0] (a path) with these descriptors as 0, 1 and 2. OSError names the path when it cannot be run."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
    pid = os.posix_spawn(argv[0], argv, env or {}, file_actions=actions, setsigmask=[], setsigdef=_DEFAULTED)
    # The reaper runs in this thread's event loop, so even an ended child is still there to be read.
    return Child(pid, procfs.read_start_time(pid))
