"""What the tool says of a path that is not there: which, why, and neither errno's number nor an exception's name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kata_host.cli import program
from kata_host.cli.errors import describe_os_error

MISSING = "No such file or directory"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("policy check {}/nope", "{}/nope: " + MISSING),
        ("policy check --request {}/nope {}/there", f"--request: {{}}/nope: {MISSING}"),
        ("vm restore {}/nope", f"{{}}/nope: no saved machine there: machine.json: {MISSING}"),
        ("vm restore {}/there", "{}/there: no saved machine there: machine.json: Not a directory"),
        ("run --rootfs {}/there -- true", "--rootfs {}/there: no folder is there"),
        ("run --rootfs {}/nope --template one -- true", "--rootfs {}/nope: no folder is there"),
    ],
)
def test_a_wrong_path_is_named_with_the_reason(
    words: str, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").touch()
    status = program.run([word.format(tmp_path) for word in words.split()])
    error = capfd.readouterr().err
    assert status in (1, 2)
    assert error == f"kata-agent-ctl: error: {told.format(tmp_path)}\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EXDEV, "across", "/a", None, b"/b"), "/a -> /b: across"),
        (OSError(errno.ENOENT, "gone", 7), "gone"),
        (OSError("only words"), "only words"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_of_the_system_is_told_by_its_names_and_its_reason(error: OSError, told: str) -> None:
    assert describe_os_error(error) == told
