"""From OCI resources to the cgroup v2 files that say the same. Pure; the one place that knows both.

Owns formulas, what "not set" and "no limit" are, the order of writes, and what v2 cannot do, which is refused by name.
Must not know: devices, which are eBPF and crun's. Follows: the OCI runtime specification 1.2, "Control groups";
Documentation/admin-guide/cgroup-v2.rst. The wire cannot tell an absent number from 0: 0 is "not set" wherever it makes
no sense as a limit. See decision 0020.
"""

from __future__ import annotations

from typing import Any

from kata_agent.cgroups import cpulist
from kata_agent.errors import InvalidRequest, NotSupported
from kata_linux.record import Record

Resources = dict[str, Any]

MAX = "max"
KINDS = frozenset({"memory", "cpu", "pids", "blockIO", "hugepageLimits", "unified", "network", "devices"})
MEMORY = frozenset({"limit", "reservation", "swap"})
CPU = frozenset({"shares", "quota", "period", "cpus", "mems", "idle", "burst"})
BLOCK_IO = frozenset({"weight", "weightDevice"})
THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}
# cgroup v1's ranges, in which OCI speaks, and v2's.
SHARES = (2, 262144)
BLOCK_WEIGHTS = (10, 1000)
WEIGHTS = (1, 10000)


class Write(Record):
    """One write to one file of the group."""

    file: str
    value: str


class Facts(Record):
    """What the plan depends on; the defaults are those of a new group."""

    hugepage_sizes: tuple[str, ...] = ()
    """As in the names of the files: `2MB`."""
    memory_max: str = MAX
    cpu_max: str = "max 100000"


def plan_writes(resources: Resources, facts: Facts) -> tuple[Write, ...]:
    """Every write, in order. Raises InvalidRequest or NotSupported before anything is done."""
    _refuse_unknown("resources", resources, KINDS)
    if any((resources.get("network") or {}).values()):
        raise NotSupported("network class and priorities: cgroup v2 has no such controller, leave them out")
    return (
        *_plan_memory(resources.get("memory") or {}, facts),
        *_plan_cpu(resources.get("cpu") or {}, facts),
        *_plan_pids(resources.get("pids")),
        *_plan_block_io(resources.get("blockIO") or {}),
        *_plan_hugepages(resources.get("hugepageLimits") or [], facts),
        *_plan_unified(resources.get("unified") or {}),
    )


def convert_shares(shares: int) -> int:
    """cpu.weight for cpu.shares: linear from 2..262144 to 1..10000, as crun and Kata do it."""
    return _scale(min(max(shares, SHARES[0]), SHARES[1]), SHARES)


def _scale(value: int, source: tuple[int, int]) -> int:
    low, high = WEIGHTS
    return low + (value - source[0]) * (high - low) // (source[1] - source[0])


def _plan_memory(memory: Resources, facts: Facts) -> list[Write]:
    _refuse_unknown("memory", memory, MEMORY)
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    writes = [Write("memory.max", _limit(limit))] if limit else []
    if swap or limit < 0:
        swap_write = Write("memory.swap.max", _plan_swap(limit, swap, facts.memory_max))
        # A limit that shrinks pushes pages out: not into more swap than there will be. One that grows comes first.
        shrinks = limit > 0 and (facts.memory_max == MAX or limit < int(facts.memory_max))
        writes.insert(0 if shrinks else len(writes), swap_write)
    if memory.get("reservation"):
        writes.append(Write("memory.low", _limit(memory["reservation"])))
    return writes


def _plan_swap(limit: int, swap: int, memory_max: str) -> str:
    """v2 limits swap alone, OCI the sum of memory and swap."""
    if swap < 0 or limit < 0:  # no limit for memory means none for the sum
        return MAX
    if not limit and memory_max == MAX:
        raise InvalidRequest(
            f"memory swap {swap} is the sum with a memory limit, and there is none: give limit"
        )
    memory = limit or int(memory_max)
    if swap < memory:
        raise InvalidRequest(
            f"memory swap {swap} is the sum of memory and swap: less than the limit {memory}"
        )
    return str(swap - memory)


def _plan_cpu(cpu: Resources, facts: Facts) -> list[Write]:
    _refuse_unknown("cpu", cpu, CPU)
    writes = []
    if cpu.get("shares"):
        writes.append(Write("cpu.weight", str(convert_shares(cpu["shares"]))))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        first = _limit(quota) if quota else facts.cpu_max.split()[0]
        writes.append(Write("cpu.max", f"{first} {period}" if period else first))
    if cpu.get("burst"):
        writes.append(Write("cpu.max.burst", str(cpu["burst"])))
    if cpu.get("idle") is not None:
        writes.append(Write("cpu.idle", str(cpu["idle"])))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            cpulist.parse(f"cpuset {key}", cpu[key])
            writes.append(Write(f"cpuset.{key}", cpu[key]))
    return writes


def _plan_pids(pids: Resources | None) -> list[Write]:
    """OCI: a limit of 0 or less is none."""
    return [] if pids is None or "limit" not in pids else [Write("pids.max", _limit(pids["limit"] or -1))]


def _plan_block_io(block_io: Resources) -> list[Write]:
    _refuse_unknown("blockIO", block_io, BLOCK_IO | THROTTLES.keys())
    writes = []
    if block_io.get("weight"):
        writes.append(Write("io.weight", f"default {_convert_weight(block_io['weight'])}"))
    for device in block_io.get("weightDevice") or []:
        if device.get("leafWeight"):
            raise NotSupported(f"blockIO leafWeight of {_device(device)}: cgroup v2 has none, leave it out")
        if device.get("weight"):
            writes.append(Write("io.weight", f"{_device(device)} {_convert_weight(device['weight'])}"))
    limits: dict[str, list[str]] = {}
    for key, name in THROTTLES.items():
        for device in block_io.get(key) or []:
            rate = device.get("rate") or MAX
            limits.setdefault(_device(device), []).append(f"{name}={rate}")
    writes.extend(Write("io.max", f"{device} {' '.join(values)}") for device, values in limits.items())
    return writes


def _convert_weight(weight: int) -> int:
    low, high = BLOCK_WEIGHTS
    if not low <= weight <= high:
        raise InvalidRequest(f"blockIO weight {weight} is not in {low}..{high}")
    return _scale(weight, BLOCK_WEIGHTS)


def _plan_hugepages(limits: list[Resources], facts: Facts) -> list[Write]:
    writes = []
    for entry in limits:
        size, limit = entry.get("pageSize") or "", entry.get("limit") or 0
        if size in facts.hugepage_sizes:
            writes.append(Write(f"hugetlb.{size}.max", str(limit)))
        elif limit:  # none of what is not there is no limit: hosts send 0 for each size that they know
            known = ", ".join(facts.hugepage_sizes) or "none"
            raise NotSupported(f"huge pages of {size!r}: this kernel has {known}")
    return writes


def _plan_unified(unified: Resources) -> list[Write]:
    """Files by name, last, so that they win. Those of `cgroup.` are no limits: they would freeze or kill."""
    writes: list[Write] = []
    for file, value in unified.items():
        controller, dot, rest = str(file).partition(".")
        if not (dot and rest and controller.isalnum()) or "/" in file or controller == "cgroup":
            raise InvalidRequest(f"unified {file!r} is not a limit of a controller, like memory.high")
        writes.extend(Write(file, line) for line in str(value).splitlines() if line)
    return writes


def _limit(number: int) -> str:
    return MAX if number < 0 else str(number)


def _device(entry: Resources) -> str:
    return f"{entry.get('major', 0)}:{entry.get('minor', 0)}"


def _refuse_unknown(what: str, part: Resources, known: frozenset[str]) -> None:
    """What v2 has no file for; unset values ask for nothing, negative ones for no limit."""
    for key, value in part.items():
        asks = value > 0 if isinstance(value, int) else bool(value)
        if key not in known and asks:
            raise NotSupported(f"{what} {key}: cgroup v2 cannot do it, leave it out")
