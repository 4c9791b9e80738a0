"""Processes as /proc tells them: stat, status, cmdline (proc_pid_stat(5)).

Owns: the parsers. A process is `(pid, start_time)`; start_time is field 22 of stat, in clock ticks since
boot, and can be read of a zombie too. Must not know: what the processes are for. A process that is gone gives
ENOENT or ESRCH.
"""

from __future__ import annotations

import os

from kata_linux.record import Record


class Stat(Record):
    """The fields of /proc/PID/stat that this project asks for."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    start_time: int


def read_stat(pid: int | str, *, proc: str = "/proc") -> Stat:
    """Read and parse /proc/PID/stat."""
    return parse_stat(_read(f"{proc}/{pid}/stat"))


def read_start_time(pid: int | str, *, proc: str = "/proc") -> int:
    """The second half of a process's identity."""
    return parse_stat(_read(f"{proc}/{pid}/stat")).start_time


def parse_stat(data: bytes) -> Stat:
    """Parse a line of stat; the name may hold blanks and brackets, so it ends at the last closing one."""
    try:
        head, _, tail = data.rpartition(b")")
        pid, _, comm = head.partition(b" (")
        fields = tail.split()
        return Stat(
            pid=int(pid),
            comm=os.fsdecode(comm),
            state=fields[0].decode("ascii"),
            ppid=int(fields[1]),
            pgrp=int(fields[2]),
            session=int(fields[3]),
            start_time=int(fields[19]),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a line of /proc/PID/stat: {data[:100]!r}") from error


def read_status(pid: int | str, *, proc: str = "/proc") -> dict[str, str]:
    """/proc/PID/status as a dictionary of stripped texts."""
    text = os.fsdecode(_read(f"{proc}/{pid}/status"))
    pairs = (line.partition(":") for line in text.split("\n"))
    return {name: value.strip() for name, colon, value in pairs if colon}


def read_cmdline(pid: int | str, *, proc: str = "/proc") -> list[str]:
    """The process's arguments; empty for kernel threads and zombies."""
    data = _read(f"{proc}/{pid}/cmdline")
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]


def list_pids(*, proc: str = "/proc") -> list[int]:
    """Ids of all processes there are."""
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
