"""What to age, what to evict and when to compact. Pure.

Follows: Kata's mem-agent. Different on purpose: a batch of pages is taken back with each command where Kata asks for
one page and reads the whole file anew, and a generation is old enough after the period when that is below a minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata_agent.memory.settings import CompactSettings, MemcgSettings
    from kata_linux.lrugen import Node

YOUNGEST_AGE_MS = 60_000
GENERATIONS = 4  # MAX_NR_GENS: only then is the oldest one cold
BATCH_PAGES = 4096
USABLE_SWAP_PAGES = 256
ONLY_ANON_SWAPPINESS = 200


class Stall(Record):
    """A reading: tasks have waited so long for memory and io, at this moment."""

    total_us: int
    time_ns: int


def stall_percent(before: Stall | None, after: Stall) -> int:
    """The share of time that tasks waited between two readings; 0 with the first."""
    if before is None or after.time_ns <= before.time_ns:
        return 0
    elapsed_us = max((after.time_ns - before.time_ns) // 1000, 1)
    return max(after.total_us - before.total_us, 0) * 100 // elapsed_us


def own_totals(totals: Mapping[str, int]) -> dict[str, int]:
    """Each group's own waiting: what its direct children have waited is theirs."""
    own = dict(totals)
    for path, total in totals.items():
        parent = path.rpartition("/")[0] or "/"
        if path != "/" and parent in own:
            own[parent] -= total
    return {path: max(total, 0) for path, total in own.items()}


def must_age(node: Node, settings: MemcgSettings) -> bool:
    """Whether the youngest generation is old enough for a new one."""
    limit_ms = min(YOUNGEST_AGE_MS, settings.period_secs * 1000)
    return bool(node.generations) and node.generations[-1].age_ms >= limit_ms


def eviction_swappiness(node: Node, settings: MemcgSettings, swap_free_pages: int) -> int | None:
    """With which swappiness to take back pages of the oldest generation; None when it must be left alone."""
    if len(node.generations) != GENERATIONS:
        return None
    oldest = node.generations[0]
    can_swap = settings.swap and swap_free_pages > USABLE_SWAP_PAGES and oldest.anon_pages > 0
    if not oldest.file_pages:
        return ONLY_ANON_SWAPPINESS if can_swap else None
    if not can_swap:
        return 0
    share = 200 * oldest.anon_pages / (oldest.anon_pages + oldest.file_pages)
    return min(round(share), settings.swappiness_max)


def has_shrunk(before: Node, after: Node) -> bool:
    """Whether evicting is still of use: the same oldest generation has lost pages of one kind."""
    then, now = before.generations[0], after.generations[0]
    return (
        now.sequence == then.sequence
        and (now.anon_pages < then.anon_pages or now.file_pages < then.file_pages)
    ) or now.sequence > then.sequence


def parse_movable(text: str, below_order: int) -> int:
    """Free movable pages in blocks of lower orders, from /proc/pagetypeinfo. Raises ValueError."""
    pages = 0
    for line in text.splitlines():
        words = line.replace(",", " ").split()
        if words[:1] == ["Node"] and words[4:6] == ["type", "Movable"]:
            counts = [
                int(word.lstrip(">")) for word in words[6:]
            ]  # `>100000` where the kernel stopped to count
            pages += sum(count << order for order, count in enumerate(counts[:below_order]))
    return pages


class Fragmentation(Record):
    """How much is free, and how much of it in small movable blocks, in pages."""

    free_pages: int
    movable_pages: int


def must_compact(
    before: Fragmentation | None, now: Fragmentation, skipped: int, settings: CompactSettings
) -> bool:
    """Whether memory is more fragmented by the threshold than after the last compaction, or the time has come."""
    if before is None or skipped >= settings.compact_force_times:
        return True
    return (
        before.free_pages - now.free_pages > settings.compact_threshold
        or now.movable_pages - before.movable_pages > settings.compact_threshold
    )
