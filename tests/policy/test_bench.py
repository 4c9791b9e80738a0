"""The benchmark works and measures what it has budgets for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kata_bench import budgets, main, result, table
from kata_testing.repository import ROOT


def test_every_budget_is_measured_by_some_figure() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "bench/kata_bench/figures").glob("*.py"))
    named = set(re.findall(r'"([a-z0-9-]+)"', sources))
    assert budgets.read_budgets().keys() - named == set()


def test_a_missed_budget_is_marked_and_listed() -> None:
    known = {"size": budgets.Budget("size", "a size", "files", "MB", at_most=2, aim=1)}
    results = [result.Result("size", 2.5)]
    assert table.list_missed(known, results) == ["size"]
    assert table.format_table(known, results).splitlines()[1].split() == [
        "a",
        "size,",
        "files",
        "2.50",
        "MB",
        "<=",
        "2",
        "1",
        "OVER",
    ]


@pytest.mark.parametrize(("value", "met"), [(1.9, True), (2.0, True), (2.1, False)])
def test_a_budget_is_kept_at_its_limit(value: float, met: bool) -> None:
    assert budgets.Budget("x", "x", "files", "MB", at_most=2).is_met_by(value) is met
    assert budgets.Budget("x", "x", "files", "MB", at_least=2).is_met_by(4 - value) is met
    assert budgets.Budget("x", "x", "files", "MB").is_met_by(value) is None


def test_measurements_are_named_by_group_or_name() -> None:
    everyday = [name for name, measurement in main.MEASUREMENTS.items() if measurement.group != main.SOAK]
    assert main.select_measurements([]) == everyday
    assert main.select_measurements(["soak"]) == ["soak-kills", "soak-execs"]
    assert main.select_measurements(["check", "files"]) == ["check", "files"]
    with pytest.raises(KeyError, match="chek"):
        main.select_measurements(["chek"])


@pytest.mark.requires("root", "crun", "guest-image")
def test_a_quick_run_measures_every_native_figure(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bench")}
    command = [sys.executable, "-m", "kata_bench.main", "native", "files", "--quick", "--json", str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(target.read_text())
    expected = {
        name for name, budget in budgets.read_budgets().items() if budget.group in ("native", "files")
    }
    assert document["figures"].keys() == expected
    assert document["failures"] == {}
