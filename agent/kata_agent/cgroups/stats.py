"""A group's figures: one read a file, and what they mean to Kata's hosts and Kubernetes.

Owns which file gives which figure. Must not know: the wire's messages. Follows:
Documentation/admin-guide/cgroup-v2.rst; Kata's agent, StatsContainer, without its mistakes (throttled_usec, io.stat's
`=`, `max` of swap). Figures of a controller that the group has not are None. The working set is
`usage - stats["inactive_file"]`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from kata_linux import cgroupfs
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

UNLIMITED = 2**64 - 1
NS_PER_US = 1000
# The names that hosts know for io.stat's, in their order.
IO_OPS = {
    "rbytes": "read",
    "wbytes": "write",
    "rios": "rios",
    "wios": "wios",
    "dbytes": "dbytes",
    "dios": "dios",
}


class Throttling(Record):
    """How often the quota ran out."""

    periods: int
    throttled_periods: int
    throttled_ns: int


class Cpu(Record):
    """Time used; throttling only with the cpu controller."""

    total_ns: int
    user_ns: int
    system_ns: int
    throttling: Throttling | None


class Amount(Record):
    """Something that is used and limited."""

    usage: int
    peak: int = 0
    failures: int = 0
    limit: int = UNLIMITED


class Memory(Record):
    """Bytes; `stats` is memory.stat as it is."""

    usage: Amount
    swap: Amount
    kernel: Amount
    cache: int
    stats: dict[str, int]


class Pids(Record):
    """Tasks; a limit of 0 is none."""

    current: int
    limit: int


class Io(Record):
    """One figure of one device."""

    major: int
    minor: int
    op: str
    value: int


class Stats(Record):
    """All of a group."""

    cpu: Cpu | None
    memory: Memory | None
    pids: Pids | None
    io: tuple[Io, ...] | None
    hugetlb: dict[str, Amount]


def read_stats(group: str) -> Stats:
    """The figures of the group in this folder. OSError when there is no such group."""
    with cgroupfs.Files(group) as files:
        sizes = {
            name.split(".")[1]: _parse_hugetlb(files, name)
            for name in os.listdir(group)
            if name.startswith("hugetlb.") and name.count(".") == 2 and name.endswith(".current")
        }
        return Stats(
            cpu=_parse(parse_cpu, files.read("cpu.stat")),
            memory=_read_memory(files),
            pids=_read_pids(files),
            io=_parse(parse_io, files.read("io.stat")),
            hugetlb=sizes,
        )


def parse_cpu(text: str) -> Cpu:
    """cpu.stat: microseconds, of which the first three are there without the controller."""
    values = cgroupfs.parse_flat(text)
    throttling = None
    if "nr_periods" in values:
        throttling = Throttling(
            values["nr_periods"], values.get("nr_throttled", 0), values.get("throttled_usec", 0) * NS_PER_US
        )
    total, user, system = (values.get(f"{name}_usec", 0) * NS_PER_US for name in ("usage", "user", "system"))
    return Cpu(total, user, system, throttling)


def parse_io(text: str) -> tuple[Io, ...]:
    """io.stat: `8:0 rbytes=1 wbytes=2 ...`; a device without any I/O has no figures."""
    found: list[Io] = []
    for line in text.splitlines():
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in rest.split() if "=" in pair)
        if major.isdecimal() and minor.isdecimal():
            found.extend(
                Io(int(major), int(minor), op, int(values[key]))
                for key, op in IO_OPS.items()
                if key in values
            )
    return tuple(found)


def _read_memory(files: cgroupfs.Files) -> Memory | None:
    current = files.read("memory.current")
    if current is None:
        return None
    stats = _parse(cgroupfs.parse_flat, files.read("memory.stat")) or {}
    swap_events = _parse(cgroupfs.parse_flat, files.read("memory.swap.events")) or {}
    return Memory(
        usage=Amount(
            int(current),
            _number(files.read("memory.peak")),
            limit=_number(files.read("memory.max"), UNLIMITED),
        ),
        swap=Amount(
            _number(files.read("memory.swap.current")),
            _number(files.read("memory.swap.peak")),
            swap_events.get("fail", 0),
            _number(files.read("memory.swap.max"), UNLIMITED),
        ),
        kernel=Amount(stats.get("kernel", 0)),
        cache=stats.get("file", 0),
        stats=stats,
    )


def _read_pids(files: cgroupfs.Files) -> Pids | None:
    current = files.read("pids.current")
    return None if current is None else Pids(int(current), _number(files.read("pids.max")))


def _parse_hugetlb(files: cgroupfs.Files, name: str) -> Amount:
    prefix = name.removesuffix(".current")
    events = _parse(cgroupfs.parse_flat, files.read(f"{prefix}.events")) or {}
    return Amount(_number(files.read(name)), failures=events.get("max", 0))


def _number(text: str | None, unlimited: int = 0) -> int:
    """`max` is `unlimited`; an absent file of a controller that is there reads as 0, `max` if it is a limit."""
    word = (text or "").strip()
    return int(word) if word.isdecimal() else unlimited


def _parse(parse: Callable[[str], T], text: str | None) -> T | None:
    return None if text is None else parse(text)
