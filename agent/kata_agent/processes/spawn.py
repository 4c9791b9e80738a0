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


def spawn(
    argv: list[str], stdio: tuple[int, int, int], env: dict[str, str] | None = None, *, oom_score: int = 0
) -> Child:
    """Run argv[0] (a path) with these descriptors as 0, 1 and 2. OSError names the path when it cannot be run.

    The agent's own protection from the out-of-memory killer is not inherited: the child has `oom_score`.
    """
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
    pid = os.posix_spawn(argv[0], argv, env or {}, file_actions=actions, setsigmask=[], setsigdef=_DEFAULTED)
    # The reaper runs in this thread's event loop, so even an ended child is still there to be read.
    child = Child(pid, procfs.read_start_time(pid))
    _set_oom_score(pid, oom_score)
    return child


def spawn_on_terminal(argv: list[str], terminal: str, env: dict[str, str]) -> Child:
    """Run argv[0] in a session of its own, with the terminal at this path as its controlling one and as 0, 1 and 2.

    OSError names the program when it cannot be run. It is an ordinary process to the out-of-memory killer.
    """
    actions = [
        (
            os.POSIX_SPAWN_OPEN,
            0,
            terminal,
            os.O_RDWR,
            0,
        ),  # after setsid: what is opened first is the terminal
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    pid = os.posix_spawn(
        argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=_DEFAULTED
    )
    child = Child(pid, procfs.read_start_time(pid))
    _set_oom_score(pid, 0)
    return child


def _set_oom_score(pid: int, score: int) -> None:
    """Long before the child can have started anything, which inherits it."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except (FileNotFoundError, ProcessLookupError):
        pass  # ended at once
