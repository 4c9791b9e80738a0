"""The command line: what a person sees on a terminal and in a log, and errors that say what to do."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kata_images.buildroot import enter_command
from kata_images.cli import main
from kata_images.host_tools import TOOLS, missing_tools
from kata_images.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_plain_line_for_each_step() -> None:
    stream = io.StringIO()
    with Progress(stream).step("packing"):
        assert stream.getvalue() == ""
    line = stream.getvalue()
    assert line.startswith("kata-image: packing  ")
    assert line.endswith(" s\n")
    assert "\x1b" not in line


def test_a_terminal_shows_the_step_while_it_runs_and_marks_one_that_failed() -> None:
    stream = Terminal()
    seen = []

    def interrupted() -> None:
        with Progress(stream).step("packing"):
            seen.append(stream.getvalue())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["\r\x1b[K  … packing"]
    assert stream.getvalue().endswith("✗ packing\n")


def test_root_needs_no_user_namespace_and_others_get_one() -> None:
    plain = enter_command(Path("/r"), ["true"], user=0)
    assert "--user" not in plain
    assert plain[-2:] == ["/r", "true"]
    assert "--map-root-user" in enter_command(Path("/r"), ["true"], user=1000)


def test_children_in_a_root_end_with_their_caller() -> None:
    command = enter_command(Path("/r"), ["true"], user=0)
    assert {"--pid", "--fork", "--kill-child", "--mount"} <= set(command)


def test_show_without_an_image_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--output", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err == f"kata-image: {tmp_path}: no manifest.json there; run kata-image build\n"
    )


def test_a_recipe_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "none.toml"
    assert main(["build", "--recipe", str(recipe), "--output", str(tmp_path / "guest")]) == 1
    assert capsys.readouterr().err == f"kata-image: {recipe}: no such recipe\n"
    assert list(tmp_path.iterdir()) == []


def test_jobs_must_be_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--jobs", "0", "--output", str(tmp_path / "guest")]) == 1
    assert "--jobs: must be 1 or more" in capsys.readouterr().err


def test_a_tool_in_the_folder_is_not_missing(tmp_path: Path) -> None:
    for name in TOOLS:
        (tmp_path / name).touch()
    assert missing_tools(tmp_path) == []
