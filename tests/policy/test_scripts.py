"""The scripts that people and CI call: sound, executable, and of one mind about what there is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kata_testing.repository import ROOT

SCRIPTS = sorted([*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"])
BARE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """As from cron: no terminal, no TERM, no input."""
    return subprocess.run(
        command, env=BARE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_bash_that_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert run("bash", "-n", script).stderr == ""


def test_ci_runs_the_same_command_as_people() -> None:
    assert "/../scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_test_refuses_a_layer_that_there_is_not() -> None:
    done = run(ROOT / "scripts" / "test", "policy", "wires")
    assert done.returncode == 2
    assert (
        done.stderr
        == "scripts/test: no layer is called wires; there are: policy unit wire contracts root vm\n"
    )


def test_every_layer_has_a_folder_of_tests() -> None:
    for layer in ("policy", "unit", "wire", "contracts", "root", "vm"):
        assert list((ROOT / "tests" / layer).glob("test_*.py")), layer


def test_check_refuses_a_check_that_there_is_not() -> None:
    done = run(ROOT / "scripts" / "check", "spelling")
    assert done.returncode == 2
    assert done.stderr == "scripts/check: no check is called spelling\n"


def test_setup_refuses_an_argument_that_it_does_not_know() -> None:
    done = run(ROOT / "scripts" / "setup", "--test")
    assert done.returncode == 1
    assert done.stderr == "scripts/setup: unknown argument --test: only --tests is known\n"


def test_setup_has_nothing_to_do_a_second_time_and_says_nothing() -> None:
    first = run(ROOT / "scripts" / "setup")
    assert first.returncode == 0, first.stderr
    assert run(ROOT / "scripts" / "setup").stderr == ""
