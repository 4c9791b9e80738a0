"""OCI resources as cgroup v2 files: what a number means, in which order files are written, what is refused by name."""

from __future__ import annotations

import pytest

from kata_agent.cgroups import apply, cpulist, plan
from kata_agent.cgroups.plan import Facts
from kata_agent.errors import InvalidRequest, NotSupported

MIB = 1 << 20


def writes(facts: Facts = Facts(), **resources: object) -> list[tuple[str, str]]:  # noqa: B008 - a constant
    return [tuple(write) for write in plan.plan_writes(resources, facts)]


def test_nothing_asked_for_is_nothing_written():
    assert writes() == []
    assert (
        writes(
            memory={"limit": 0, "swap": 0}, cpu={"shares": 0, "quota": 0, "cpus": ""}, blockIO={"weight": 0}
        )
        == []
    )


@pytest.mark.parametrize(
    ("shares", "weight"), [(1, 1), (2, 1), (1024, 39), (262144, 10000), (1 << 40, 10000), (10240, 391)]
)
def test_shares_become_a_weight_in_range(shares, weight):
    assert writes(cpu={"shares": shares}) == [("cpu.weight", str(weight))]


@pytest.mark.parametrize(
    ("cpu", "value"),
    [
        ({"quota": 50000, "period": 100000}, "50000 100000"),
        ({"quota": 50000}, "50000"),
        ({"quota": -1}, "max"),
        ({"quota": -1, "period": 20000}, "max 20000"),
        ({"period": 20000}, "30000 20000"),
    ],
)
def test_quota_and_period_keep_what_they_do_not_name(cpu, value):
    assert writes(Facts(cpu_max="30000 100000"), cpu=cpu) == [("cpu.max", value)]


def test_swap_is_the_sum_without_the_memory():
    asked = {"limit": 64 * MIB, "swap": 96 * MIB}
    assert dict(writes(memory=asked))["memory.swap.max"] == str(32 * MIB)
    assert dict(writes(memory={"limit": 64 * MIB, "swap": 64 * MIB}))["memory.swap.max"] == "0"
    assert writes(Facts(memory_max=str(64 * MIB)), memory={"swap": 80 * MIB}) == [
        ("memory.swap.max", str(16 * MIB))
    ]
    assert writes(memory={"swap": -1}) == [("memory.swap.max", "max")]


def test_no_limit_for_memory_is_none_for_the_sum():
    assert writes(Facts(memory_max="4096"), memory={"limit": -1}) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
    ]


@pytest.mark.parametrize(
    ("current", "first"), [(str(128 * MIB), "memory.swap.max"), (str(32 * MIB), "memory.max")]
)
def test_a_shrinking_limit_comes_after_the_swap_it_would_push_pages_into(current, first):
    planned = writes(Facts(memory_max=current), memory={"limit": 64 * MIB, "swap": 80 * MIB})
    assert planned[0][0] == first
    assert len(planned) == 2


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        ({"swap": 5}, "there is none: give limit"),
        ({"limit": 8192, "swap": 4096}, "less than the limit 8192"),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(memory, text):
    with pytest.raises(InvalidRequest, match=text):
        writes(memory=memory)


def test_reservation_is_low_and_negative_is_max():
    assert writes(memory={"reservation": 4096}) == [("memory.low", "4096")]
    assert writes(memory={"reservation": -1}) == [("memory.low", "max")]


@pytest.mark.parametrize(("limit", "value"), [(5, "5"), (0, "max"), (-1, "max")])
def test_a_pids_limit_counts_and_zero_or_less_is_none(limit, value):
    """Kata's agent drops a limit that is there and sets one that is not (spec 7.2, 1)."""
    assert writes(pids={"limit": limit}) == [("pids.max", value)]
    assert writes() == []


def test_throttles_of_a_device_are_one_line_and_no_rate_is_no_limit():
    entry = {"major": 8, "minor": 0}
    block_io = {
        "throttleReadBpsDevice": [{**entry, "rate": 100}, {"major": 9, "minor": 1, "rate": 7}],
        "throttleWriteIOPSDevice": [{**entry, "rate": 0}],
    }
    assert writes(blockIO=block_io) == [("io.max", "8:0 rbps=100 wiops=max"), ("io.max", "9:1 rbps=7")]


def test_io_weights_are_in_the_range_of_v2():
    devices = [{"major": 8, "minor": 0, "weight": 1000}]
    assert writes(blockIO={"weight": 10, "weightDevice": devices}) == [
        ("io.weight", "default 1"),
        ("io.weight", "8:0 10000"),
    ]
    with pytest.raises(InvalidRequest, match=r"weight 5 is not in 10\.\.1000"):
        writes(blockIO={"weight": 5})


def test_huge_pages_that_the_kernel_has_not_are_refused_unless_none_may_be_used():
    facts = Facts(hugepage_sizes=("2MB",))
    limits = [{"pageSize": "2MB", "limit": 4 * MIB}, {"pageSize": "1GB", "limit": 0}]
    assert writes(facts, hugepageLimits=limits) == [("hugetlb.2MB.max", str(4 * MIB))]
    with pytest.raises(NotSupported, match="huge pages of '1GB': this kernel has 2MB"):
        writes(facts, hugepageLimits=[{"pageSize": "1GB", "limit": 1}])


def test_unified_comes_last_line_by_line_and_never_freezes_or_kills():
    unified = {"memory.min": "4096", "io.max": "8:0 rbps=1\n8:16 rbps=2"}
    planned = writes(memory={"limit": MIB}, unified=unified)
    assert planned[1:] == [("memory.min", "4096"), ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")]
    for name in ("cgroup.freeze", "cgroup.kill", "../x.y", "memory", ""):
        with pytest.raises(InvalidRequest, match="is not a limit of a controller"):
            writes(unified={name: "1"})


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"memory": {"swappiness": 60}}, "memory swappiness"),
        ({"memory": {"kernel": 4096}}, "memory kernel"),
        ({"memory": {"kernelTCP": 4096}}, "memory kernelTCP"),
        ({"memory": {"disableOOMKiller": True}}, "memory disableOOMKiller"),
        ({"cpu": {"realtimeRuntime": 5}}, "cpu realtimeRuntime"),
        ({"cpu": {"realtimePeriod": 5}}, "cpu realtimePeriod"),
        ({"blockIO": {"leafWeight": 10}}, "blockIO leafWeight"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 1, "leafWeight": 10}]}}, "leafWeight of 8:1"),
        ({"network": {"classID": 5}}, "network class"),
        ({"rdma": {"mlx5_1": {}}}, "resources rdma"),
    ],
)
def test_what_v2_cannot_do_is_refused_by_name(resources, text):
    with pytest.raises(NotSupported, match=text):
        writes(**resources)


def test_v1_words_that_ask_for_nothing_are_fine():
    assert (
        writes(memory={"swappiness": 0, "kernel": -1, "disableOOMKiller": False}, network={"classID": 0})
        == []
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0", {0}),
        ("2-4", {2, 3, 4}),
        ("1,7", {1, 7}),
        ("0,2-3,7", {0, 2, 3, 7}),
        ("", set()),
        ("0-1\n", {0, 1}),
    ],
)
def test_lists_of_cpus(text, numbers):
    assert cpulist.parse("cpuset cpus", text) == numbers
    assert cpulist.parse("cpuset cpus", cpulist.render(frozenset(numbers))) == numbers


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "1\0", "0-99999999", "0:2"])
def test_what_is_no_list_of_cpus_is_refused(text):
    with pytest.raises(InvalidRequest, match="cpuset cpus"):
        writes(cpu={"cpus": text})


def test_ancestors_that_are_too_small_get_what_the_child_needs_and_keep_their_own():
    ancestors = [("/a", "0-1"), ("/a/b", ""), ("/a/b/c", "0-7")]
    planned = apply.plan_ancestors(ancestors, "cpuset.cpus", "1-3")
    assert [(folder, write.value) for folder, write in planned] == [("/a", "0-3")]


def make_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"cgroup_controllers": "cpu memory cpuset io", **files}.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_a_larger_cpuset_is_written_from_the_top(tmp_path):
    outer = make_group(tmp_path / "a", cpuset_cpus="0")
    inner = make_group(tmp_path / "a" / "c", cpuset_cpus="0")
    apply.apply(str(tmp_path), "/a/c", plan.plan_writes({"cpu": {"cpus": "0-3"}}, Facts()))
    assert [(group / "cpuset.cpus").read_text() for group in (outer, inner)] == ["0-3", "0-3"]


def test_what_was_written_is_put_back_when_a_later_write_fails(tmp_path):
    group = make_group(tmp_path / "c", memory_max="max\n", cpu_weight="100\n", io_max="8:0 rbps=5 wbps=max\n")
    wanted = {
        "memory": {"limit": 4096},
        "cpu": {"shares": 2, "idle": 1},
        "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}]},
    }
    with pytest.raises(NotSupported, match=r"cpu\.idle: this kernel has no such file"):
        apply.apply(str(tmp_path), "/c", plan.plan_writes(wanted, Facts()))
    assert (group / "memory.max").read_text().startswith("max")
    assert (group / "cpu.weight").read_text().startswith("100")


def test_a_controller_that_is_not_there_is_named(tmp_path):
    make_group(tmp_path / "c")
    with pytest.raises(NotSupported, match=r"pids\.max: .*/c has no pids controller"):
        apply.apply(str(tmp_path), "/c", plan.plan_writes({"pids": {"limit": 3}}, Facts()))


def test_a_kernel_without_swap_has_none_to_limit(tmp_path):
    group = make_group(tmp_path / "c", memory_max="max\n")
    apply.apply(str(tmp_path), "/c", plan.plan_writes({"memory": {"limit": 4096, "swap": 4096}}, Facts()))
    assert (group / "memory.max").read_text() == "4096"


def test_what_takes_the_lines_of_a_device_back(tmp_path):
    group = make_group(
        tmp_path / "c", io_max="8:0 rbps=5 wbps=max riops=max wiops=max\n", io_weight="default 100\n"
    )
    for file, value, undo in [
        ("io.max", "8:0 rbps=9", ["8:0 rbps=5 wbps=max riops=max wiops=max"]),
        ("io.max", "8:16 rbps=9", ["8:16 rbps=max wbps=max riops=max wiops=max"]),
        ("io.weight", "8:0 50", ["8:0 default"]),
        ("io.weight", "default 50", ["default 100"]),
    ]:
        assert apply._read_before(str(group), plan.Write(file, value)) == undo


@pytest.mark.parametrize(("kib", "name"), [(64, "64KB"), (2048, "2MB"), (1 << 20, "1GB"), (32 << 10, "32MB")])
def test_sizes_of_huge_pages_are_named_as_the_files_are(kib, name):
    assert apply.render_size(kib) == name
