"""One round over all control groups: begin generations, take back the coldest pages of those that are quiet.

Owns: what is remembered between rounds. Must not know: when rounds are, the wire. A group whose tasks wait for memory
or io is left alone, in the round and between two batches.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kata_agent.memory import plan
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.memory.observe import Kernel
    from kata_agent.memory.settings import MemcgSettings
    from kata_agent.worker import Worker
    from kata_linux.lrugen import Node

_Key = tuple[int, int]


class Round(Record):
    """What a round did."""

    nodes: int
    aged: int
    evicted_from: int
    freed_pages: int


class MemcgRounds:
    """Counts each node's agings and keeps each group's last reading of pressure."""

    def __init__(self, kernel: Kernel, worker: Worker) -> None:
        self._kernel = kernel
        self._worker = worker
        self._agings: dict[_Key, int] = {}
        self._stalls: dict[str, plan.Stall] = {}

    async def run(self, settings: MemcgSettings) -> Round:
        """Do one round. Raises OSError, ValueError."""
        nodes = await self._worker.run(self._kernel.read_nodes)
        quiet = await self._worker.run(lambda: self._find_quiet(nodes, settings))
        aged = 0
        for node in nodes:
            if node.path in quiet and plan.must_age(node, settings) and await self._age(node, settings):
                aged += 1
        self._agings = {_key(node): self._agings.get(_key(node), 0) for node in nodes}
        cold = [
            node
            for node in nodes
            if node.path in quiet and self._agings[_key(node)] >= settings.eviction_run_aging_count_min
        ]
        freed = [await self._evict(node, settings) for node in cold]
        return Round(len(nodes), aged, sum(pages > 0 for pages in freed), sum(freed))

    def _find_quiet(self, nodes: list[Node], settings: MemcgSettings) -> set[str]:
        """Groups whose own tasks waited less than the limit since the last round."""
        now = self._kernel.read_stall("/").time_ns
        own = plan.own_totals(self._kernel.read_totals({node.path for node in nodes} | {"/"}))
        stalls = {path: plan.Stall(total, now) for path, total in own.items()}
        before, self._stalls = self._stalls, stalls
        limit = settings.period_psi_percent_limit
        return {
            path for path, stall in stalls.items() if plan.stall_percent(before.get(path), stall) <= limit
        }

    async def _age(self, node: Node, settings: MemcgSettings) -> bool:
        try:
            await self._worker.run(lambda: self._kernel.age(node, swap=settings.swap))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False  # the group has gone
        self._agings[_key(node)] = self._agings.get(_key(node), 0) + 1
        return True

    async def _evict(self, node: Node, settings: MemcgSettings) -> int:
        """Take back pages until nothing is cold any more, it does not help or tasks begin to wait; gives how many."""
        first = await self._worker.run(lambda: self._kernel.read_stall(node.path))
        before, freed = None, 0
        while True:
            now = await self._worker.run(lambda: self._find(node))
            if now is None or (before is not None and not plan.has_shrunk(before, now)):
                return freed
            if before is not None:
                freed += _lost(before, now)
            swap_free = await self._worker.run(self._kernel.read_swap_free_pages)
            swappiness = plan.eviction_swappiness(now, settings, swap_free)
            stall = await self._worker.run(lambda: self._kernel.read_stall(node.path))
            if swappiness is None or plan.stall_percent(first, stall) > settings.eviction_psi_percent_limit:
                return freed
            await self._take_back(now, swappiness)
            before = now

    async def _take_back(self, node: Node, swappiness: int) -> None:
        try:
            await self._worker.run(
                lambda: self._kernel.evict(node, swappiness=swappiness, pages=plan.BATCH_PAGES)
            )
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # the group or the generation has gone; the next look tells

    def _find(self, wanted: Node) -> Node | None:
        return next((node for node in self._kernel.read_nodes() if _key(node) == _key(wanted)), None)


def _key(node: Node) -> _Key:
    return node.group, node.node


def _lost(before: Node, after: Node) -> int:
    """Pages that the oldest generation has lost."""
    then, now = before.generations[0], after.generations[0]
    left = now.anon_pages + now.file_pages if now.sequence == then.sequence else 0
    return max(then.anon_pages + then.file_pages - left, 0)
