"""The long versions of the torture tests: thousands of kills, ten thousand execs. Not in the default run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from kata_bench.native import ROOT
from kata_bench.result import Effort, Result

KILLS, EXECS = 3000, 10_000
_SUMMARY = re.compile(r"Check answered after (\d+) ms \(median\), (\d+) ms \(worst\)")


def measure_soak_kills(effort: Effort) -> list[Result]:
    """`soak-answer` in ms: from a kill to an answered Check; fails when anything was lost."""
    output = _run_tests("test_torture_chaos.py", KATA_TEST_KILLS=effort.pick(KILLS, 20))
    found = _SUMMARY.search(output)
    if found is None:
        raise RuntimeError(f"the chaos test told no figures: {output[-2000:]}")
    middle, worst = float(found[1]), float(found[2])
    return [Result("soak-answer", middle, (middle, worst), found[0])]


def measure_soak_execs(effort: Effort) -> list[Result]:
    """`soak-execs` in s; fails when anything is left over or the agent has grown."""
    begin = time.perf_counter()
    _run_tests("test_torture_execs.py", KATA_TEST_EXECS=effort.pick(EXECS, 300))
    seconds = time.perf_counter() - begin
    return [Result("soak-execs", seconds, (seconds,))]


def _run_tests(name: str, **settings: int) -> str:
    environment = {
        **os.environ,
        **{key: str(value) for key, value in settings.items()},
        "KATA_TEST_REQUIRE": "all",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", f"tests/root/{name}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout[-3000:]}")
    return done.stdout
