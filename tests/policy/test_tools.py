"""The tools that read the source have nothing to say: each of `scripts/check`'s checks is a test."""

from __future__ import annotations

import subprocess

import pytest

from kata_testing.repository import ROOT

CHECKS = ("ruff", "format", "mypy", "imports", "generated")


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes(name: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "check", name], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"scripts/check {name}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
