"""What runs in a container's control group, as /proc tells it, and ending all of it or a branch.

Owns the reading and the order of signals. Must not know the registry. A process that ends meanwhile is left out.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from kata_agent.processes import signals
from kata_linux import cgroupfs, procfs
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ROUNDS = 8
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessInfo(Record):
    """A process; `exec_id` when the host asked for it."""

    container_id: str
    exec_id: str
    pid: int
    ppid: int
    name: str
    command: tuple[str, ...]
    state: str
    rss_bytes: int
    threads: int
    start_time_ns: int
    uid: int
    cgroup: str


def list_processes(
    root: str, cgroup: str, container_id: str, asked: dict[tuple[int, int], str]
) -> Iterator[ProcessInfo]:
    """Processes of the group at `cgroup` below `root`, and of those below it; `asked` has exec ids by identity."""
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for folder, pid in _members(root + cgroup):
        try:
            stat = procfs.read_stat(pid)
            status = procfs.read_status(pid)
            command = procfs.read_cmdline(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield ProcessInfo(
            container_id=container_id,
            exec_id=asked.get((pid, stat.start_time), ""),
            pid=pid,
            ppid=stat.ppid,
            name=stat.comm,
            command=tuple(command),
            state=stat.state,
            rss_bytes=_number(status, "VmRSS") * 1024,
            threads=_number(status, "Threads"),
            start_time_ns=boot_ns + stat.start_time * 1_000_000_000 // _TICKS_PER_S,
            uid=_number(status, "Uid"),
            cgroup=folder.removeprefix(root),
        )


def kill_all(directory: str, number: int) -> int:
    """Signal every process of the group and below it; SIGKILL by `cgroup.kill`. Gives how many there were."""
    count = sum(1 for _ in _members(directory))
    signals.send_to_cgroup(directory, number)
    return count


def kill_tree(directory: str, pid: int, number: int) -> int:
    """Signal a process and its descendants in this group. Gives how many.

    For SIGKILL they are stopped first, parents before children, so that none can fork itself out of the tree: the
    child of a killed parent would be another's. A descendant whose own parent has ended already is another's.
    """
    tree: dict[int, int] = {}
    for _ in range(MAX_ROUNDS):
        fresh = _descendants(directory, pid, tree)
        if not fresh:
            break
        tree.update(fresh)
        if number == signal.SIGKILL:
            for member, start_time in fresh.items():
                signals.send_to_process(member, start_time, signal.SIGSTOP)
    for member, start_time in tree.items():
        signals.send_to_process(member, start_time, number)
    return len(tree)


def _descendants(directory: str, root: int, known: dict[int, int]) -> dict[int, int]:
    """Start times of `root` and what descends from it, by pid; without those that are known."""
    stats = {}
    for _, pid in _members(directory):
        try:
            stats[pid] = procfs.read_stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root] if root in stats else []
    for parent in found:
        found += [pid for pid, stat in stats.items() if stat.ppid == parent]
    return {pid: stats[pid].start_time for pid in found if pid not in known}


def _members(directory: str) -> Iterator[tuple[str, int]]:
    for folder, _, _ in os.walk(directory):
        try:
            pids = cgroupfs.list_processes(folder)
        except FileNotFoundError:
            continue
        yield from ((folder, pid) for pid in pids if pid)


def _number(status: dict[str, str], name: str) -> int:
    words = status.get(name, "").split()
    return int(words[0]) if words else 0
