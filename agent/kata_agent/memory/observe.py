"""What the memory agent reads of the kernel, and what it needs of it.

Owns: the files and the commands. Must not know: what follows from them. All of it may block: callers use a worker.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from kata_agent.errors import AgentError
from kata_agent.memory.plan import Fragmentation, Stall, parse_movable
from kata_linux import lrugen, mount, psi

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEBUGFS = "/sys/kernel/debug"
_ALL_PARTS = 7  # of the multi-generational LRU: aging by page tables, leaf and non-leaf
_PSI = ("memory", "io")


class Kernel:
    """The kernel's files below these roots."""

    def __init__(
        self, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup", control: str = lrugen.CONTROL
    ) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._control = control

    def prepare(self) -> None:
        """Make sure that there is everything. Raises OSError or `AgentError` with what this kernel lacks."""
        with open(lrugen.ENABLED, "r+", encoding="ascii") as file:
            if int(file.read(), 16) != _ALL_PARTS:
                file.write(str(_ALL_PARTS))
        if not os.path.exists(self._control):
            mount.mount("debugfs", _DEBUGFS, "debugfs")
        if not os.access(self._control, os.R_OK | os.W_OK):
            raise AgentError(
                f"{self._control}: not there; the kernel needs CONFIG_LRU_GEN and CONFIG_DEBUG_FS"
            )
        self.read_stall("/")

    def read_nodes(self) -> list[lrugen.Node]:
        """Every group's generations."""
        return lrugen.read(self._control)

    def age(self, node: lrugen.Node, *, swap: bool) -> None:
        """Begin a generation."""
        lrugen.age(node, swap=swap, path=self._control)

    def evict(self, node: lrugen.Node, *, swappiness: int, pages: int) -> None:
        """Take back pages of the oldest one."""
        lrugen.evict(node, swappiness=swappiness, pages=pages, path=self._control)

    def read_stall(self, path: str) -> Stall:
        """How long tasks of a group have waited for memory and io; of all tasks with `/`."""
        total = sum(psi.read(self._pressure_file(path, resource))["some"].total_us for resource in _PSI)
        return Stall(total, time.monotonic_ns())

    def read_totals(self, paths: Iterable[str]) -> dict[str, int]:
        """The same of many groups, in microseconds; one that has gone meanwhile is left out."""
        totals = {}
        for path in paths:
            try:
                totals[path] = self.read_stall(path).total_us
            except OSError:
                if path == "/" or os.path.exists(self._cgroups + path):
                    raise
                # groups come and go between two reads
        return totals

    def pressure_files(self) -> list[str]:
        """What tells of the whole guest's waiting."""
        return [self._pressure_file("/", resource) for resource in _PSI]

    def read_swap_free_pages(self) -> int:
        """Free swap."""
        return self._read_memory("SwapFree")

    def read_fragmentation(self, below_order: int) -> Fragmentation:
        """What is free, and how much of it in blocks below this order."""
        with open(f"{self._proc}/pagetypeinfo", encoding="ascii") as file:
            return Fragmentation(self._read_memory("MemFree"), parse_movable(file.read(), below_order))

    def _read_memory(self, field: str) -> int:
        with open(f"{self._proc}/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) * 1024 // os.sysconf("SC_PAGE_SIZE")
        raise AgentError(f"{self._proc}/meminfo: no line {field}")

    def _pressure_file(self, path: str, resource: str) -> str:
        # the root group has no pressure files: it would have the machine's
        return (
            f"{self._proc}/pressure/{resource}"
            if path == "/"
            else f"{self._cgroups}{path}/{resource}.pressure"
        )
