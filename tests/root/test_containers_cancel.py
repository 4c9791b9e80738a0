"""A verb that is cancelled, at whichever await, leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kata_testing.native import NEEDS
from kata_testing.repository import ROOT

pytestmark = pytest.mark.requires(*NEEDS)


def test_cancelled_at_each_await_or_late_nothing_is_left():
    done = subprocess.run(
        [sys.executable, "-m", "kata_testing.cancelled"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    tried = [line.split()[0] for line in done.stdout.splitlines()]
    assert {verb: tried.count(verb) > 1 for verb in ("create", "exec", "remove")} == {
        "create": True,
        "exec": True,
        "remove": True,
    }
    late = done.stdout.splitlines()[-1]
    assert late.startswith("late ETIME: remove cancelled-")
