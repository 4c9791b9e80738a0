"""PID 1's plan: words in, decisions out; bad words never cost the boot."""

from __future__ import annotations

import os

import pytest

from kata_init import boot, shutdown
from kata_init.journal import describe_failure
from kata_init.plan import (
    CID_HOST,
    Address,
    Module,
    Plan,
    make_plan,
    parse_address,
    parse_doorbell,
    parse_modules,
)
from kata_linux.mountinfo import parse_mountinfo


def test_without_words_the_agent_listens_where_katas_hosts_dial() -> None:
    plan = make_plan([], [], {})
    assert str(plan.listen) == "vsock://-1:1024"
    assert plan == Plan()


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("kata.heartbeat=0.25", "heartbeat_ns", 250_000_000),
        ("kata.heartbeat=0", "heartbeat_ns", 0),
        ("kata.silent=30", "silent_ns", 30_000_000_000),
        ("kata.restart_silent=1", "restart_silent", True),
    ],
)
def test_the_heartbeat_is_told_in_seconds(word: str, field: str, value: object) -> None:
    plan = make_plan([word], [], {})
    assert (getattr(plan, field), plan.complaints) == (value, ())


@pytest.mark.parametrize(
    "word",
    [
        *(
            "kata.heartbeat=",
            "kata.heartbeat=x",
            "kata.heartbeat=-1",
            "kata.heartbeat=1e3",
            "kata.heartbeat=86401",
        ),
        *("kata.silent=0", "kata.silent=.", "kata.restart_silent=yes"),
    ],
)
def test_what_is_no_time_is_ignored_and_told(word: str) -> None:
    plan = make_plan([word], [], {})
    assert plan._replace(complaints=()) == Plan()
    assert len(plan.complaints) == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/a", Address("unix", "/run/a")),
        ("unix://@name", Address("abstract", "name")),
        ("vsock://-1:1024", Address("vsock", port=1024)),
        ("vsock://3:99", Address("vsock", "", 3, 99)),
        ("vsock://-1", Address("vsock", port=1024)),
    ],
)
def test_an_address_is_parsed_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix://",
        "unix://x",
        "/run/a",
        "tcp://1:2",
        "vsock://x:1",
        "vsock://-1:0",
        "vsock://1:x",
        "unix:///" + "x" * 200,
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_address(text)


def test_the_doorbell_is_a_port_of_the_host_or_a_socket_file() -> None:
    assert parse_doorbell("5000") == Address("vsock", "", CID_HOST, 5000)
    assert parse_doorbell("unix:/tmp/bell") == Address("unix", "/tmp/bell")
    assert parse_doorbell("serial:kata.doorbell.0") == Address("serial", "kata.doorbell.0")
    assert str(parse_doorbell("serial:kata.doorbell.0")) == "serial:kata.doorbell.0"
    with pytest.raises(ValueError, match="is no"):
        parse_doorbell("serial:")


def test_later_words_win_and_the_environment_wins_over_all() -> None:
    kernel = ["agent.server_addr=unix:///a", "kata.doorbell=1", "kata.doorbell=2", "quiet"]
    plan = make_plan(kernel, ["agent.server_addr=unix:///b"], {})
    assert (plan.listen.path, plan.doorbell) == ("/b", Address("vsock", "", CID_HOST, 2))
    plan = make_plan(kernel, [], {"KATA_AGENT_SERVER_ADDR": "unix:///c"})
    assert plan.listen.path == "/c"


def test_a_bad_value_is_told_and_the_earlier_good_one_is_kept() -> None:
    plan = make_plan(["kata.doorbell=7", "kata.doorbell=x", "kata.modules=relative"], [], {})
    assert plan.doorbell == Address("vsock", "", CID_HOST, 7)
    assert plan.modules_file == Plan().modules_file
    assert plan.complaints == (
        "kata.doorbell: 'x' is no number; it is ignored",
        "kata.modules: 'relative' is no absolute path; it is ignored",
    )


def test_the_modules_file_takes_comments_parameters_and_relative_paths() -> None:
    text = "# vsock\n/lib/a.ko.xz  one=1 two=2 # why\n\nkernel/b.ko\n"
    assert parse_modules(text, "6.12") == [
        Module("/lib/a.ko.xz", "one=1 two=2"),
        Module("/lib/modules/6.12/kernel/b.ko", ""),
    ]


MOUNTS = """\
1 1 0:2 / / rw - rootfs rootfs rw
20 1 0:5 / /proc rw - proc proc rw
21 1 0:6 / /sys rw - sysfs sysfs rw
22 21 0:7 / /sys/fs/cgroup rw - tmpfs tmpfs rw
23 1 8:1 / /data rw - ext4 /dev/vda1 rw
24 23 0:9 / /data/share rw - virtiofs tag rw
"""


def test_what_is_mounted_with_its_type_is_left_alone_and_what_covers_is_covered() -> None:
    planned = boot.plan_mounts(parse_mountinfo(MOUNTS), boot.EARLY_MOUNTS)
    assert [row.target for row in planned] == [
        "/dev",
        "/dev/shm",
        "/dev/pts",
        "/dev/mqueue",
        "/run",
        "/sys/fs/cgroup",
    ]


def test_a_machine_that_is_booted_already_needs_no_mount() -> None:
    rows = [
        f"{30 + n} 1 0:1 / {row.target} rw - {row.fstype} x rw" for n, row in enumerate(boot.EARLY_MOUNTS)
    ]
    assert boot.plan_mounts(parse_mountinfo("\n".join(rows)), boot.EARLY_MOUNTS) == ()


def test_on_somebody_elses_machine_run_is_always_a_new_one_and_nothing_else_is_mounted() -> None:
    mounted = parse_mountinfo("30 1 0:1 / /run rw - tmpfs x rw")
    assert [row.target for row in boot.plan_mounts(mounted, boot.NAMESPACE_MOUNTS)] == ["/run"]


def test_the_end_unmounts_what_can_lose_data_innermost_first() -> None:
    assert shutdown.plan_unmounts(parse_mountinfo(MOUNTS)) == ["/data/share", "/data"]


def test_a_failure_is_told_with_its_frames_and_its_cause() -> None:
    try:
        try:
            os.environ["INNER"]
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as error:
        text = describe_failure(error)
    assert text.startswith("ValueError: outer\n  at ")
    assert "test_a_failure_is_told_with_its_frames_and_its_cause" in text
    assert "caused by KeyError: 'INNER'" in text
