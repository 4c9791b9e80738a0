"""A group's figures, from files as Linux 6.12 writes them (`data/cgroup`), and as the message that hosts read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kata_agent.cgroups import stats
from kata_agent.services.cgroups import encode_stats

DATA = Path(__file__).parent / "data" / "cgroup"
ALL = 2**64 - 1


@pytest.fixture
def found() -> stats.Stats:
    return stats.read_stats(str(DATA))


def test_cpu_is_in_nanoseconds_and_throttled_time_is_not_lost(found):
    """Kata's agent reads the key of version 1 (spec 7.2, 5)."""
    message = encode_stats(found).cpu_stats
    usage, throttling = message.cpu_usage, message.throttling_data
    assert (usage.total_usage, usage.usage_in_usermode, usage.usage_in_kernelmode) == (
        792556000,
        101177000,
        691379000,
    )
    assert list(usage.percpu_usage) == []
    assert (throttling.periods, throttling.throttled_periods, throttling.throttled_time) == (
        52,
        47,
        3141592000,
    )


def test_memory_has_what_the_working_set_is_made_of(found):
    memory = encode_stats(found).memory_stats
    assert (memory.usage.usage, memory.usage.max_usage, memory.usage.limit) == (2191360, 4902912, 67108864)
    assert memory.usage.usage - memory.stats["inactive_file"] == 2170880
    assert memory.cache == memory.stats["file"] == 1851392
    assert memory.stats["pgmajfault"] == 122
    assert (memory.kernel_usage.usage, memory.kernel_usage.limit) == (233472, ALL)
    assert memory.use_hierarchy is False


def test_swap_without_a_limit_is_unlimited_and_failures_are_counted(found):
    """Kata's agent answers a limit of 0 (spec 7.2, 5)."""
    swap = encode_stats(found).memory_stats.swap_usage
    assert (swap.usage, swap.max_usage, swap.failcnt, swap.limit) == (4096, 8192, 3, ALL)


def test_io_has_the_numbers_of_each_device_under_the_names_that_hosts_know(found):
    """Kata's agent splits at the wrong character and answers zeros (spec 7.2, 5)."""
    entries = encode_stats(found).blkio_stats.io_service_bytes_recursive
    assert [(entry.major, entry.minor, entry.op, entry.value) for entry in entries] == [
        *((8, 0, op, value) for op, value in [("read", 90430464), ("write", 299008000), ("rios", 8950)]),
        *((8, 0, op, value) for op, value in [("wios", 1252), ("dbytes", 50331648), ("dios", 3021)]),
        *((253, 2, op, value) for op, value in [("read", 1), ("write", 2), ("rios", 3)]),
        *((253, 2, op, value) for op, value in [("wios", 4), ("dbytes", 5), ("dios", 6)]),
    ]


def test_pids_without_a_limit_have_the_limit_0(found, tmp_path):
    pids = encode_stats(found).pids_stats
    assert (pids.current, pids.limit) == (3, 0)
    (tmp_path / "pids.current").write_text("3\n")
    (tmp_path / "pids.max").write_text("17\n")
    assert stats.read_stats(str(tmp_path)).pids == (3, 17)


def test_huge_pages_are_told_by_size(found):
    sizes = encode_stats(found).hugetlb_stats
    assert sorted(sizes) == ["1GB", "2MB"]
    assert (sizes["2MB"].usage, sizes["2MB"].failcnt) == (4194304, 7)


def test_what_a_missing_controller_would_tell_is_absent(tmp_path):
    shutil.copy(DATA / "cpu.stat", tmp_path / "cpu.stat")
    text = (tmp_path / "cpu.stat").read_text()
    (tmp_path / "cpu.stat").write_text(text[: text.index("nr_periods")])
    message = encode_stats(stats.read_stats(str(tmp_path)))
    assert [field.name for field, _ in message.ListFields()] == ["cpu_stats"]
    assert not message.cpu_stats.HasField("throttling_data")


def test_a_group_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        stats.read_stats(str(tmp_path / "gone"))
    assert caught.value.filename == str(tmp_path / "gone")


@pytest.mark.parametrize("line", ["8:0 ", "8:0", "", "nonsense", "a:b rbytes=1", "8:0 cost.usage=1"])
def test_lines_of_io_stat_without_figures_say_nothing(line):
    assert stats.parse_io(line + "\n") == ()
