"""The guest as /proc tells it: Kata's `kata_guest_*` series, and its pressure.

Owns: which fields there are and their names. Must not know: the text format, who asks. Follows: Kata's agent 3.21,
where names, labels and units are the hosts'. Different on purpose: the label `cpu` is the number of the CPU, also
when one before it is off line, and a disk or interface that is gone has no series any more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.metrics.exposition import COUNTER, GAUGE, Family, Sample, item_family
from kata_agent.metrics.process import read
from kata_linux import psi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CPU_ITEMS = (*("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"),)
NETDEV_ITEMS = (
    *("recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame", "recv_compressed"),
    *("recv_multicast", "sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls"),
    *("sent_carrier", "sent_compressed"),
)
DISK_ITEMS = (
    *("reads", "merged", "sectors_read", "time_reading", "writes", "writes_merged", "sectors_written"),
    *("time_writing", "in_progress", "time_in_progress", "weighted_time_in_progress", "discards"),
    *("discards_merged", "sectors_discarded", "time_discarding", "flushes", "time_flushing"),
)
# Kata's item <- the kernel's field, where it is not the field's words in lower case.
MEMORY_ITEMS = {
    "mem_total": "MemTotal",
    "mem_free": "MemFree",
    "mem_available": "MemAvailable",
    "buffers": "Buffers",
    "cached": "Cached",
    "swap_cached": "SwapCached",
    "active": "Active",
    "inactive": "Inactive",
    "active_anon": "Active(anon)",
    "inactive_anon": "Inactive(anon)",
    "active_file": "Active(file)",
    "inactive_file": "Inactive(file)",
    "unevictable": "Unevictable",
    "mlocked": "Mlocked",
    "high_total": "HighTotal",
    "high_free": "HighFree",
    "low_total": "LowTotal",
    "low_free": "LowFree",
    "mmap_copy": "MmapCopy",
    "swap_total": "SwapTotal",
    "swap_free": "SwapFree",
    "dirty": "Dirty",
    "writeback": "Writeback",
    "anon_pages": "AnonPages",
    "mapped": "Mapped",
    "shmem": "Shmem",
    "slab": "Slab",
    "s_reclaimable": "SReclaimable",
    "s_unreclaim": "SUnreclaim",
    "kernel_stack": "KernelStack",
    "page_tables": "PageTables",
    "quicklists": "Quicklists",
    "nfs_unstable": "NFS_Unstable",
    "bounce": "Bounce",
    "writeback_tmp": "WritebackTmp",
    "commit_limit": "CommitLimit",
    "committed_as": "Committed_AS",
    "vmalloc_total": "VmallocTotal",
    "vmalloc_used": "VmallocUsed",
    "vmalloc_chunk": "VmallocChunk",
    "hardware_corrupted": "HardwareCorrupted",
    "anon_hugepages": "AnonHugePages",
    "shmem_hugepages": "ShmemHugePages",
    "shmem_pmd_mapped": "ShmemPmdMapped",
    "cma_total": "CmaTotal",
    "cma_free": "CmaFree",
    "hugepages_total": "HugePages_Total",
    "hugepages_free": "HugePages_Free",
    "hugepages_rsvd": "HugePages_Rsvd",
    "hugepages_surp": "HugePages_Surp",
    "hugepagesize": "Hugepagesize",
    "direct_map_4k": "DirectMap4k",
    "direct_map_4M": "DirectMap4M",
    "direct_map_2M": "DirectMap2M",
    "direct_map_1G": "DirectMap1G",
    "hugetlb": "Hugetlb",
    "per_cpu": "Percpu",
    "k_reclaimable": "KReclaimable",
}


def load_families(text: str) -> Iterator[Family]:
    """From /proc/loadavg: three loads, and runnable of all tasks."""
    fields = text.split()
    loads = zip(("load1", "load5", "load15"), (float(field) for field in fields[:3]), strict=True)
    yield item_family("kata_guest_load", "Load of the guest", loads)
    runnable, _, total = fields[3].partition("/")
    tasks = (("cur", int(runnable)), ("max", int(total)))
    yield item_family("kata_guest_tasks", "Tasks of the guest, runnable and all", tasks)


def cpu_families(text: str, ticks_per_s: int) -> Iterator[Family]:
    """From /proc/stat, in milliseconds."""
    samples: list[Sample] = []
    for line in text.splitlines():
        name, *ticks = line.split()
        if not name.startswith("cpu"):
            continue
        cpu = name[3:] or "total"
        for item, count in zip(CPU_ITEMS, ticks, strict=False):  # an old kernel has fewer
            samples.append(_sample(int(count) * (1000 // ticks_per_s), cpu=cpu, item=item))
    yield Family("kata_guest_cpu_time", GAUGE, "CPU times of the guest in milliseconds", tuple(samples))


def vm_stat_families(text: str) -> Iterator[Family]:
    """Every line of /proc/vmstat."""
    items = ((name, int(value)) for name, value in map(str.split, text.splitlines()))
    yield item_family("kata_guest_vm_stat", "Counters of the guest's memory management", items)


def netdev_families(text: str) -> Iterator[Family]:
    """From /proc/net/dev, below its two lines of headings."""
    samples = [
        _sample(value, interface=name, item=item)
        for name, values in (_split_netdev(line) for line in text.splitlines()[2:])
        for item, value in zip(NETDEV_ITEMS, values, strict=True)
    ]
    yield Family("kata_guest_netdev_stat", GAUGE, "Counters of the guest's interfaces", tuple(samples))


def disk_families(text: str) -> Iterator[Family]:
    """From /proc/diskstats; columns that an old kernel has not are 0."""
    samples = []
    for line in text.splitlines():
        _, _, disk, *values = line.split()
        counts = [int(value) for value in values] + [0] * (len(DISK_ITEMS) - len(values))
        samples += [
            _sample(count, disk=disk, item=item) for item, count in zip(DISK_ITEMS, counts, strict=False)
        ]
    yield Family("kata_guest_diskstat", GAUGE, "Counters of the guest's disks", tuple(samples))


def memory_families(text: str) -> Iterator[Family]:
    """From /proc/meminfo: sizes in bytes, counts as they are, 0 for what this kernel has not."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        value, *unit = rest.split()
        found[name] = int(value) * (1024 if unit else 1)
    items = ((item, found.get(field, 0)) for item, field in MEMORY_ITEMS.items())
    yield item_family("kata_guest_meminfo", "Memory of the guest in bytes and pages", items)


def pressure_families(texts: Iterable[tuple[str, str]]) -> Iterator[Family]:
    """From /proc/pressure: shares of time in percent over three windows, and the time lost since boot."""
    shares, totals = [], []
    for resource, text in texts:
        for kind, line in psi.parse(text).items():
            totals.append(_sample(line.total_us / 1e6, kind=kind, resource=resource))
            shares += [
                _sample(getattr(line, window), item=f"{kind}_{window}", resource=resource)
                for window in ("avg10", "avg60", "avg300")
            ]
    yield Family(
        "kata_guest_pressure", GAUGE, "Time that tasks waited for a resource in percent", tuple(shares)
    )
    yield Family(
        "kata_guest_pressure_seconds_total", COUNTER, "Time that tasks waited for a resource", tuple(totals)
    )


def sources(proc: str) -> Iterator[tuple[str, Callable[[], Iterator[Family]]]]:
    """What is read, by the name that a failure is told under."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    yield f"{proc}/loadavg", lambda: load_families(read(f"{proc}/loadavg"))
    yield f"{proc}/stat", lambda: cpu_families(read(f"{proc}/stat"), ticks_per_s)
    yield f"{proc}/vmstat", lambda: vm_stat_families(read(f"{proc}/vmstat"))
    yield f"{proc}/net/dev", lambda: netdev_families(read(f"{proc}/net/dev"))
    yield f"{proc}/diskstats", lambda: disk_families(read(f"{proc}/diskstats"))
    yield f"{proc}/meminfo", lambda: memory_families(read(f"{proc}/meminfo"))
    if os.path.isdir(f"{proc}/pressure"):  # a kernel may be built or booted without
        yield (
            f"{proc}/pressure",
            lambda: pressure_families((name, read(f"{proc}/pressure/{name}")) for name in psi.RESOURCES),
        )


def _sample(value: float, **labels: str) -> Sample:
    """Labels must be given in the order of their names."""
    return Sample(value, tuple(labels.items()))


def _split_netdev(line: str) -> tuple[str, Sequence[int]]:
    name, _, values = line.rpartition(":")
    return name.strip(), [int(value) for value in values.split()]
