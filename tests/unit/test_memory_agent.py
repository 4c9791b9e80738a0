"""The memory agent: what is aged, evicted and compacted, by plan and on a kernel played by a small model."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any

import pytest

from kata_agent.config import Config
from kata_agent.errors import AgentError, InvalidRequest, WrongState
from kata_agent.memory import plan
from kata_agent.memory.agent import MemoryAgent
from kata_agent.memory.memcg import MemcgRounds, Round
from kata_agent.memory.plan import Fragmentation, Stall
from kata_agent.memory.settings import CompactSettings, MemcgSettings, change
from kata_agent.worker import Worker
from kata_linux.lrugen import Generation, Node
from kata_testing.wire import run_async

SETTINGS = MemcgSettings()
MOVABLE = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2
Node    0, zone    DMA32, type    Unmovable      7      7      7
Node    0, zone    DMA32, type      Movable      3      2      1
Node    0, zone   Normal, type      Movable   >100      0      5

Number of blocks type     Unmovable      Movable
Node 0, zone   Normal            9           9
"""


def node(*generations: tuple[int, int, int, int], path: str = "/a", group: int = 2) -> Node:
    return Node(group, path, 0, tuple(Generation(*generation) for generation in generations))


def four(anon: int, file: int, age_ms: int = 70_000) -> Node:
    return node((3, 400_000, anon, file), (4, 300_000, 0, 0), (5, 200_000, 0, 0), (6, age_ms, 0, 0))


# The plan


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        (None, Stall(500, 10**9), 0),
        (Stall(0, 0), Stall(10_000, 10**9), 1),
        (Stall(0, 0), Stall(2_000_000, 10**9), 200),
        (Stall(5, 5), Stall(4, 10**9), 0),
        (Stall(5, 10**9), Stall(9, 10**9), 0),
    ],
)
def test_waiting_is_a_share_of_the_time_between_two_readings(
    before: Stall | None, after: Stall, percent: int
) -> None:
    assert plan.stall_percent(before, after) == percent


def test_what_children_have_waited_is_theirs() -> None:
    assert plan.own_totals({"/": 100, "/a": 70, "/a/b": 30, "/a/c": 50, "/d": 10}) == {
        "/": 20,
        "/a": 0,
        "/a/b": 30,
        "/a/c": 50,
        "/d": 10,
    }


@pytest.mark.parametrize(
    ("age_ms", "period_s", "must"),
    [(59_999, 600, False), (60_000, 600, True), (999, 1, False), (1000, 1, True)],
)
def test_a_generation_is_old_enough_after_a_minute_or_the_period(
    age_ms: int, period_s: int, must: bool
) -> None:
    assert plan.must_age(four(1, 1, age_ms), change(SETTINGS, {"period_secs": period_s})) is must
    assert not plan.must_age(node(), SETTINGS)


@pytest.mark.parametrize(
    ("cold", "swap", "swap_free", "swappiness"),
    [
        (four(10, 30), False, 9999, 0),
        (four(10, 30), True, 256, 0),
        (four(10, 30), True, 257, 50),
        (four(30, 10), True, 257, 133),
        (four(10, 0), True, 257, 200),
        (four(10, 0), False, 9999, None),
        (four(0, 0), True, 9999, None),
        (node((3, 1, 5, 5), (4, 1, 0, 0)), True, 9999, None),
    ],
)
def test_swappiness_follows_what_is_cold_and_where_it_can_go(
    cold: Node, swap: bool, swap_free: int, swappiness: int | None
) -> None:
    settings = change(SETTINGS, {"swap": swap, "swappiness_max": 133})
    assert plan.eviction_swappiness(cold, settings, swap_free) == swappiness


def test_swappiness_is_capped() -> None:
    assert plan.eviction_swappiness(four(100, 50), change(SETTINGS, {"swap": True}), 9999) == 50


def test_movable_pages_of_lower_orders_are_counted() -> None:
    assert plan.parse_movable(MOVABLE, 1) == 103
    assert plan.parse_movable(MOVABLE, 2) == 107
    assert plan.parse_movable(MOVABLE, 3) == 131


@pytest.mark.parametrize(
    ("before", "now", "skipped", "must"),
    [
        (None, Fragmentation(1, 1), 0, True),
        (Fragmentation(5000, 100), Fragmentation(5000, 100), 0, False),
        (Fragmentation(5000, 100), Fragmentation(3976, 100), 0, False),
        (Fragmentation(5000, 100), Fragmentation(3975, 100), 0, True),
        (Fragmentation(5000, 100), Fragmentation(5000, 1125), 0, True),
        (Fragmentation(5000, 100), Fragmentation(5000, 100), 3, True),
    ],
)
def test_compaction_is_for_what_got_more_fragmented(
    before: Fragmentation | None, now: Fragmentation, skipped: int, must: bool
) -> None:
    assert plan.must_compact(before, now, skipped, CompactSettings(compact_force_times=3)) is must


# The settings


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"swappiness_max": 201}, "swappiness_max 201: at least 0 and at most 200"),
        ({"swappiness_max": 300}, "swappiness_max 300"),
        ({"period_secs": 0}, "period_secs 0: at least 1"),
        ({"period_psi_percent_limit": 101}, "period_psi_percent_limit 101"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_cut(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        change(SETTINGS, changes)


# Rounds


class FakeKernel:
    """One group with `file` cold pages; eviction takes `step` of them. Readings of pressure come from `stalls`."""

    def __init__(self, file: int = 0, *, step: int = 4000, age_ms: int = 70_000, lacking: str = "") -> None:
        self.file = file
        self.step = step
        self.age_ms = age_ms
        self.lacking = lacking
        self.waited_us = 0
        self.waits_in_eviction_us = 0
        self.sequence = 3
        self.commands: list[str] = []
        self.gone = False

    def prepare(self) -> None:
        if self.lacking:
            raise AgentError(self.lacking)

    def read_nodes(self) -> list[Node]:
        if self.gone:
            return []
        first = self.sequence
        return [
            node(
                (first, 400_000, 0, self.file),
                (first + 1, 300_000, 0, 0),
                (first + 2, 200_000, 0, 0),
                (first + 3, self.age_ms, 0, 0),
            )
        ]

    def age(self, _node: Node, *, swap: bool) -> None:
        self.commands.append(f"age {swap}")
        if self.gone:
            raise OSError(errno.EINVAL, "write")

    def evict(self, _node: Node, *, swappiness: int, pages: int) -> None:
        self.commands.append(f"evict {swappiness} {pages}")
        self.file = max(self.file - self.step, 0)
        self.waited_us += self.waits_in_eviction_us

    def read_stall(self, _path: str) -> Stall:
        return Stall(self.waited_us, time.monotonic_ns())

    def read_totals(self, paths: set[str]) -> dict[str, int]:
        return dict.fromkeys(paths - {"/"}, self.waited_us) | {"/": self.waited_us}

    def read_swap_free_pages(self) -> int:
        return 0

    def read_fragmentation(self, _order: int) -> Fragmentation:
        return Fragmentation(1, 1)

    def pressure_files(self) -> list[str]:
        return []


def rounds(kernel: FakeKernel, settings: MemcgSettings, count: int) -> list[Round]:
    async def body() -> list[Round]:
        runner = MemcgRounds(kernel, Worker(1))  # type: ignore[arg-type]
        return [await runner.run(settings) for _ in range(count)]

    return run_async(body())


def test_pages_are_taken_back_after_enough_agings_and_until_none_are_cold() -> None:
    kernel = FakeKernel(file=10_000)
    done = rounds(kernel, SETTINGS, 3)
    assert done == [Round(1, 1, 0, 0), Round(1, 1, 0, 0), Round(1, 1, 1, 10_000)]
    assert kernel.commands == ["age False"] * 3 + ["evict 0 4096"] * 3


def test_eviction_that_does_not_help_ends() -> None:
    kernel = FakeKernel(file=10_000, step=0)
    assert rounds(kernel, change(SETTINGS, {"eviction_run_aging_count_min": 0}), 1) == [Round(1, 1, 0, 0)]
    assert kernel.commands.count("evict 0 4096") == 1


def test_eviction_ends_when_tasks_begin_to_wait() -> None:
    kernel = FakeKernel(file=100_000)
    kernel.waits_in_eviction_us = 60_000_000
    rounds(kernel, change(SETTINGS, {"eviction_run_aging_count_min": 0}), 1)
    assert kernel.commands.count("evict 0 4096") == 1


def test_a_group_whose_tasks_wait_is_left_alone() -> None:
    kernel = FakeKernel(file=10_000)

    async def body() -> Round:
        runner = MemcgRounds(kernel, Worker(1))  # type: ignore[arg-type]
        settings = change(SETTINGS, {"eviction_run_aging_count_min": 9})
        await runner.run(settings)
        kernel.commands.clear()
        kernel.waited_us += 60_000_000
        return await runner.run(settings)

    assert run_async(body()) == Round(1, 0, 0, 0)
    assert kernel.commands == []


def test_a_young_generation_is_not_aged() -> None:
    kernel = FakeKernel(age_ms=100)
    assert rounds(kernel, SETTINGS, 1) == [Round(1, 0, 0, 0)]


# The agent


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.told = asyncio.Event()

    def write(self, level: str, _subsystem: str, message: str, **fields: Any) -> None:
        self.lines.append((level, message, fields))
        self.told.set()

    def info(self, _subsystem: str, message: str, **fields: Any) -> None:
        self.write("info", "", message, **fields)

    def error(self, _subsystem: str, message: str, **fields: Any) -> None:
        self.write("error", "", message, **fields)

    async def wait_for(self, message: str, count: int = 1) -> dict[str, Any]:
        while len(found := [fields for _, text, fields in self.lines if text == message]) < count:
            self.told.clear()
            await self.told.wait()
        return found[-1]


def make(kernel: FakeKernel, log: Log, **settings: Any) -> MemoryAgent:
    return MemoryAgent(
        Config(mem_agent_enable=True, mem_agent_compact_disable=True, **settings),
        worker=Worker(2),
        exits=None,  # type: ignore[arg-type]
        log=log,  # type: ignore[arg-type]
        kernel=kernel,  # type: ignore[arg-type]
    )


def test_a_change_of_the_period_begins_a_round_at_once() -> None:
    async def body() -> None:
        log = Log()
        async with asyncio.TaskGroup() as group:
            agent = make(FakeKernel(), log)
            agent.start(group)
            await log.wait_for("reclaim round")
            agent.set_memcg({"period_secs": 500})
            await log.wait_for("reclaim round", 2)
            agent.set_memcg({"disabled": True})
            agent.set_memcg({"disabled": False})
            await log.wait_for("reclaim round", 3)
            agent.close()
            with pytest.raises(WrongState, match="mem-agent is disabled"):
                agent.set_compact({})

    run_async(body())


def test_a_kernel_that_lacks_something_leaves_it_off_with_the_reason() -> None:
    async def body() -> None:
        log = Log()
        async with asyncio.TaskGroup() as group:
            agent = make(FakeKernel(lacking="lru_gen: not there"), log)
            agent.start(group)
            assert await log.wait_for("the memory agent stays off") == {"error": "lru_gen: not there"}
            with pytest.raises(WrongState, match="mem-agent is disabled: lru_gen: not there"):
                agent.set_memcg({"disabled": True})
            agent.close()

    run_async(body())


def test_settings_that_do_not_fit_leave_it_off_with_the_reason() -> None:
    async def body() -> None:
        log = Log()
        async with asyncio.TaskGroup() as group:
            agent = make(FakeKernel(), log, mem_agent_memcg_swappiness_max=255)
            agent.start(group)
            fields = await log.wait_for("the memory agent stays off")
            assert fields["error"] == "swappiness_max 255: at least 0 and at most 200"

    run_async(body())


def test_a_failed_round_is_told_and_tried_again_later() -> None:
    async def body() -> None:
        log = Log()
        kernel = FakeKernel()

        def fail() -> list[Node]:
            raise OSError(errno.EIO, "read: Input/output error")

        kernel.read_nodes = fail  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            agent = make(kernel, log)
            agent.start(group)
            fields = await log.wait_for("reclaim failed")
            assert fields["again_after_s"] == 300
            agent.set_memcg({"period_secs": 7})
            await log.wait_for("reclaim failed", 2)
            agent.close()

    run_async(body())
