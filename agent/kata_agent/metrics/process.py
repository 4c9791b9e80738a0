"""The agent's own process: Kata's `kata_agent_*` series and the standard `process_*` ones, from /proc/self.

Owns: which fields there are and their names. Must not know: the text format, who asks. Follows: Kata's agent 3.21
(names, labels and units are the hosts'); proc_pid_stat(5), proc_pid_status(5), proc_pid_io(5).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.metrics.exposition import COUNTER, GAUGE, Family, Sample, item_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUS_ITEMS = (
    *("vmpeak", "vmsize", "vmlck", "vmpin", "vmhwm", "vmrss", "rssanon", "rssfile", "rssshmem", "vmdata"),
    *("vmstk", "vmexe", "vmlib", "vmpte", "vmswap", "hugetlbpages"),
    *("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"),
)
IO_ITEMS = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes")


def stat_families(text: str, ticks_per_s: int, page_bytes: int, booted_at_s: int) -> Iterator[Family]:
    """From /proc/self/stat; the name in brackets may hold anything, so fields count from the last bracket."""
    fields = text.rpartition(")")[2].split()
    times = [int(field) for field in fields[11:15]]
    threads, started, vm_bytes, rss_pages = (int(fields[at]) for at in (17, 19, 20, 21))
    busy_s = (times[0] + times[1]) / ticks_per_s
    rss_bytes = rss_pages * page_bytes
    yield single("kata_agent_threads", GAUGE, "Threads of the agent", threads)
    yield single("kata_agent_total_time", GAUGE, "CPU time of the agent in seconds", busy_s)
    yield single("kata_agent_total_vm", GAUGE, "Virtual memory of the agent in bytes", vm_bytes)
    yield single("kata_agent_total_rss", GAUGE, "Resident memory of the agent in bytes", rss_bytes)
    yield item_family(
        "kata_agent_proc_stat",
        "CPU times of the agent in clock ticks",
        zip(("utime", "stime", "cutime", "cstime"), times, strict=True),
    )
    yield single("process_cpu_seconds_total", COUNTER, "CPU time of the agent in seconds", busy_s)
    yield single("process_virtual_memory_bytes", GAUGE, "Virtual memory of the agent in bytes", vm_bytes)
    yield single("process_resident_memory_bytes", GAUGE, "Resident memory of the agent in bytes", rss_bytes)
    started_s = booted_at_s + started / ticks_per_s
    yield single(
        "process_start_time_seconds", GAUGE, "Start of the agent since the epoch in seconds", started_s
    )


def status_families(text: str) -> Iterator[Family]:
    """From /proc/self/status: kB and counts as they are there, 0 for what this kernel has not."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found[name.lower()] = value
    items = [(item, int((found.get(item) or "0").split()[0])) for item in STATUS_ITEMS]
    yield item_family("kata_agent_proc_status", "Memory in kB and context switches of the agent", items)


def io_families(text: str) -> Iterator[Family]:
    """From /proc/self/io."""
    found = dict(line.split(": ", 1) for line in text.splitlines())
    items = [(item, int(found[item])) for item in IO_ITEMS]
    yield item_family("kata_agent_io_stat", "What the agent read and wrote in bytes and calls", items)


def descriptor_families(count: int, limit: int) -> Iterator[Family]:
    """How many descriptors are open of how many."""
    yield single("process_open_fds", GAUGE, "Open descriptors of the agent", count)
    yield single("process_max_fds", GAUGE, "Descriptors that the agent may have", limit)


def single(name: str, kind: str, help_text: str, value: float) -> Family:
    """A family of one sample without labels."""
    return Family(name, kind, help_text, (Sample(value),))


def sources(proc: str) -> Iterator[tuple[str, Callable[[], Iterator[Family]]]]:
    """What is read, by the name that a failure is told under."""
    yield (
        f"{proc}/self/stat",
        lambda: stat_families(
            read(f"{proc}/self/stat"),
            os.sysconf("SC_CLK_TCK"),
            os.sysconf("SC_PAGE_SIZE"),
            read_boot_time(proc),
        ),
    )
    yield f"{proc}/self/status", lambda: status_families(read(f"{proc}/self/status"))
    yield f"{proc}/self/io", lambda: io_families(read(f"{proc}/self/io"))
    yield (
        f"{proc}/self/fd",
        lambda: descriptor_families(len(os.listdir(f"{proc}/self/fd")) - 1, read_descriptor_limit(proc)),
    )


def read_boot_time(proc: str) -> int:
    """When the kernel started, in seconds since the epoch."""
    for line in read(f"{proc}/stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    raise ValueError("no line `btime`")


def read_descriptor_limit(proc: str) -> int:
    """The soft limit of open files."""
    for line in read(f"{proc}/self/limits").splitlines():
        if line.startswith("Max open files"):
            word = line.split()[3]
            return -1 if word == "unlimited" else int(word)
    raise ValueError("no line `Max open files`")


def read(path: str) -> str:
    """A file of /proc; what is no UTF-8 in it is replaced, because the answer must be."""
    with open(path, "rb", buffering=0) as file:
        return file.readall().decode(errors="replace")
