"""Runs a command on a machine whose processors are busy and unjustly given out, to find tests that pass by luck.

    python -m kata_testing.shake [--seed N] .venv/bin/python -m pytest tests/root/test_operators.py

Owns the load (`HOGS_PER_CPU` busy loops for each processor) and, every few milliseconds, a draw for each process under
the command: at `STARVED` of the draws it runs only when nobody else wants to (SCHED_IDLE), so that any of them may
stand still for a tenth of a second between any two of its steps. Event loops of Python are made late, too
(`unsteady/sitecustomize.py`). What is under the command is taken in by this process
when its own parent ends. Must not know what runs. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOGS_PER_CPU = 1
STARVED = 0.3
INTERVAL_S = (0.005, 0.08)
UNSTEADY = Path(__file__).with_name("unsteady")
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    parser = argparse.ArgumentParser(prog="shake", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), help="of the draws")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("say which command to run")
    sys.stderr.write(f"shake: --seed {arguments.seed}\n")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with _hogs(HOGS_PER_CPU * len(os.sched_getaffinity(0))) as hogs:
        return _shake(arguments.command, random.Random(arguments.seed), hogs)  # noqa: S311


def _shake(command: list[str], draws: random.Random, hogs: set[int]) -> int:
    # the command's to answer, which would inherit that it is ignored
    signal.signal(signal.SIGINT, lambda *_: None)
    path = os.pathsep.join(filter(None, (str(UNSTEADY), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as process:
        while process.poll() is None:
            for pid in _below(os.getpid()):
                if pid not in hogs:
                    starved = draws.random() < STARVED
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        for task in _tasks(pid):
                            os.sched_setscheduler(
                                task, os.SCHED_IDLE if starved else os.SCHED_OTHER, os.sched_param(0)
                            )
            _reap(process.pid, hogs)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draws.uniform(*INTERVAL_S))
        return process.returncode


def _reap(command: int, hogs: set[int]) -> None:
    """Take the exits of what was taken in; the command's own is `Popen`'s."""
    for pid in _children(os.getpid()):
        if pid != command and pid not in hogs:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _below(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _below(child)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return children


def _tasks(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


@contextlib.contextmanager
def _hogs(count: int) -> Iterator[set[int]]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield {hog.pid for hog in hogs}
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


if __name__ == "__main__":
    sys.exit(main())
