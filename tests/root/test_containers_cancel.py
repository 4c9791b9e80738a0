"""A verb that is cancelled, at whichever await, leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from kata_testing.cancelled import WAYS
from kata_testing.native import NEEDS
from kata_testing.repository import ROOT

pytestmark = pytest.mark.requires(*NEEDS)


def test_cancelled_at_each_await_or_late_nothing_is_left():
    done = subprocess.run(
        [sys.executable, "-m", "kata_testing.cancelled"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    tried = Counter(" ".join(line.split()[:-1]) for line in done.stdout.splitlines())
    ways = [f"{verb} {way.name}" for verb, ways in WAYS.items() for way in ways]
    # alone and supervised; the last try of each finds no await of its number
    assert {way: tried[way] // 2 for way in ways if tried[way] < 4} == {}
    assert tried["create pipes"] >= 6, "the storage's mount and crun at least"
    late = [line for line in done.stdout.splitlines() if line.startswith("late ETIME: remove cancelled-")]
    assert len(late) == 2
    assert "started\n" in done.stdout
