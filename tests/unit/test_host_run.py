"""`kata-agent-ctl run`: what its options take."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from kata_host.cli import program
from kata_host.cli.commands.run import parse_variable


@pytest.mark.parametrize("text", ["A=b", "A=", "A=b=c"])
def test_a_variable_is_taken_as_it_is(text: str) -> None:
    assert parse_variable(text) == text


@pytest.mark.parametrize("text", ["NOEQ", "=b", ""])
def test_a_variable_without_a_name_or_a_value_is_refused_and_not_dropped(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write KEY=VALUE"):
        parse_variable(text)


def test_streams_of_their_own_are_refused_for_a_machine_without_vsock(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("vmlinuz", "initrd.img"):
        (tmp_path / name).touch()
    words = [
        "run",
        "--channel",
        "serial",
        "--stdio",
        "vsock",
        "--rootfs",
        str(tmp_path),
        "--guest-dir",
        str(tmp_path),
    ]
    assert program.run([*words, "--", "true"]) == 2
    assert "--stdio vsock with --channel serial: that machine has no vsock" in capfd.readouterr().err
