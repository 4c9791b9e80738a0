"""Pressure files and the multi-generational LRU: the formats, and the real kernel's triggers where it has them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from kata_linux import lrugen, psi

BUSY = "import select, sys\nwhile not select.select([sys.stdin], [], [], 0)[0]: pass"
PRESSURE = (
    "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
)
LRU = """\
memcg     1 /
 node     0
          5      70000          0          12
          6      60000         -3          40
memcg    37 /kata/with blank
 node     0
          0        100          1           2
 node     1
          9          0          0           0
memcg    38 /kata/empty
"""


def test_pressure_is_parsed_by_kind() -> None:
    lines = psi.parse(PRESSURE)
    assert lines["some"] == psi.Line(1.5, 0.25, 0.0, 1234)
    assert lines["full"].total_us == 7


@pytest.mark.parametrize("text", ["some avg10=0.00", "some", "some avg10=x avg60=0 avg300=0 total=1"])
def test_what_is_no_pressure_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        psi.parse(text)


def test_a_trigger_fires_when_tasks_have_waited() -> None:
    trigger = psi.Trigger("/proc/pressure/cpu", "some", 1, 10_000_000)
    # More than there are processors for; they end with their input.
    hogs = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE)
        for _ in range(len(os.sched_getaffinity(0)) + 1)
    ]
    try:
        poll = select.poll()
        poll.register(trigger.fileno(), select.POLLIN)
        assert poll.poll(60_000)
        assert not poll.poll(0), "seen once, it is used up"
    finally:
        trigger.close()
        for hog in hogs:
            hog.communicate()


def test_a_trigger_that_the_kernel_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="set the trigger some 5 1") as caught:
        psi.Trigger("/proc/pressure/cpu", "some", 5, 1)
    assert caught.value.filename == "/proc/pressure/cpu"
    with pytest.raises(FileNotFoundError, match="open"):
        psi.Trigger(str(tmp_path / "none"), "some", 5, 2_000_000)


def test_generations_are_parsed_by_group_and_node() -> None:
    nodes = lrugen.parse(LRU)
    assert [(node.group, node.path, node.node) for node in nodes] == [
        (1, "/", 0),
        (37, "/kata/with blank", 0),
        (37, "/kata/with blank", 1),
    ]
    assert nodes[0].generations == (
        lrugen.Generation(5, 70000, 0, 12),
        lrugen.Generation(6, 60000, 0, 40),
    )


@pytest.mark.parametrize("line", ["memcg x /", " node", "1 2 3 4", " 1 2 x 4", "something else entirely"])
def test_a_line_that_is_none_of_the_three_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="lru_gen: "):
        lrugen.parse(line)


def test_commands_name_group_node_and_generation(tmp_path: Path) -> None:
    control = tmp_path / "lru_gen"
    control.write_text("")
    node = lrugen.parse(LRU)[0]
    lrugen.age(node, swap=True, path=str(control))
    assert control.read_text() == "+ 1 0 6 1 1"
    lrugen.evict(node, swappiness=50, pages=4096, path=str(control))
    assert control.read_text() == "- 1 0 5 50 4096"
