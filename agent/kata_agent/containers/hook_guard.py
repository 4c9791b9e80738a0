"""Program: run one OCI hook to its end or its time limit; ends with 0 whatever the hook did.

Owns the hook's process group, its time limit and its one line in the report file. crun starts it in the hook's place
(prestart, createContainer), the agent starts it for poststart and poststop, so that one piece of code keeps the
limits and no failing hook fails a call. It may run in a container's namespaces, where nothing of the agent can be
imported: the standard library only. Follows: Kata's agent, hooks; decision 0050.

Words: REPORT KIND TIMEOUT_S COUNT ENV*COUNT PATH ARG0 ARG*
"""

from __future__ import annotations

import os
import select
import signal
import sys

GRACE_S = 1.0
KEPT_OUTPUT_BYTES = 1024
_DEFAULTED = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM]


def main(words: list[str]) -> None:
    """Run the hook of these words and report how it ended."""
    report, kind, timeout_s, count = words[:4]
    environment = dict(word.split("=", 1) for word in words[4 : 4 + int(count)] if "=" in word[1:])
    path, *argv = words[4 + int(count) :]
    write_report(report, f"{kind} {path}: {run(path, argv, environment, float(timeout_s))}")


def run(path: str, argv: list[str], environment: dict[str, str], timeout_s: float) -> str:
    """Run it with this process's stdin; gives how it ended and the end of what it wrote."""
    read_end, write_end = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write_end, target) for target in (1, 2)]
    # blocked from here on: a request to end must not come between the spawn and the kill
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        pid = os.posix_spawn(
            path, argv, environment, file_actions=actions, setpgroup=0, setsigmask=[], setsigdef=_DEFAULTED
        )
    except (OSError, ValueError) as error:  # an empty path or first argument is a ValueError
        return f"cannot be run: {error.strerror if isinstance(error, OSError) else error}"
    os.close(write_end)
    output = bytearray()
    ended = follow(pid, read_end, output, timeout_s)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    how = describe(status) if ended else f"killed after its time limit of {timeout_s:g} s"
    if ended is None:
        how = "killed, because who had started it went away"
    text = output.decode(errors="replace").strip()
    return f"{how}: {text}" if text else how


def follow(pid: int, read_end: int, output: bytearray, timeout_s: float) -> bool | None:
    """Read its output until it ends. False: its time is over; None: nobody waits for it any more."""
    poll = select.poll()
    # an interval timer ends the poll with EINTR by an exception of ours; a clock would do, but a poll that is
    # told the rest of the time again and again is longer
    signal.signal(signal.SIGALRM, _raise_timeout)
    signal.signal(signal.SIGTERM, _raise_gone)
    try:
        hook, parent = os.pidfd_open(pid), _open_parent()
        for fd in (hook, parent, read_end):
            poll.register(fd, select.POLLIN)
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        try:  # our exceptions may come from each step while the signals are let in, the first and the last too
            signal.pthread_sigmask(signal.SIG_SETMASK, [])  # crun blocks everything for who it starts
            while True:
                ready = dict(poll.poll())
                if read_end in ready and not _take(read_end, output):
                    poll.unregister(read_end)
                if hook in ready:
                    os.set_blocking(read_end, False)
                    _drain(read_end, output)
                    return True
                if parent in ready:
                    return None
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
    except TimeoutError:
        return False
    except ProcessLookupError:
        return None


def describe(status: int) -> str:
    """How a wait status reads."""
    code = os.waitstatus_to_exitcode(status)
    return f"ended by signal {-code}" if code < 0 else f"ended with status {code}"


def write_report(report: str, line: str) -> None:
    """Append a line; only its first line of text, bounded."""
    data = " ".join(line.splitlines())[: 2 * KEPT_OUTPUT_BYTES].encode() + b"\n"
    fd = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(fd, data)
    os.close(fd)


def _open_parent() -> int:
    parent = os.getppid()
    if parent == 0:
        # started from outside of this pid namespace: stands for itself, nobody can be watched
        parent = os.getpid()
    return os.pidfd_open(parent)


def _take(fd: int, output: bytearray) -> bool:
    """Take what waits and keep the end of it; False at the end of the output."""
    data = os.read(fd, 65536)
    output += data
    del output[:-KEPT_OUTPUT_BYTES]
    return bool(data)


def _drain(fd: int, output: bytearray) -> None:
    try:
        while _take(fd, output):
            pass
    except BlockingIOError:
        pass  # a process that the hook left behind has its output still


def _raise_timeout(_number: int, _frame: object) -> None:
    raise TimeoutError


def _raise_gone(_number: int, _frame: object) -> None:
    raise ProcessLookupError


if __name__ == "__main__":
    main(sys.argv[1:])
