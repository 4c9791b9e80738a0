"""scripts/setup on a machine that is not at its best: apt is held, mirrors and registries fail at times.

A copy of the script runs with programs in place of apt-get, pip and go, which do as they are told once.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kata_testing.repository import ROOT

# Each writes down what it was asked; a file `fail.VERB` holds what it says when it fails, which it does once.
APT_GET = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done
echo "apt-get $1" >> "$PLACE/log"
if [ -e "$PLACE/fail.$1" ]; then cat "$PLACE/fail.$1" >&2; rm "$PLACE/fail.$1"; exit 100; fi
case $1 in
    update) [ -e "$PLACE/half" ] && { rm "$PLACE/half"; exit 0; }; touch "$PLACE/lists" ;;
    install) touch "$PLACE/installed" ;;
esac
"""
APT_CACHE = """#!/bin/bash
[ -e "$PLACE/lists" ] && echo "  Candidate: 1.0"
exit 0
"""
PYTHON = """#!/bin/bash
case "$*" in
    *--require-hashes*) word=pip ;;
    *) exit 0 ;;
esac
echo "$word" >> "$PLACE/log"
[ -e "$PLACE/fail.$word" ] || exit 0
cat "$PLACE/fail.$word" >&2
rm "$PLACE/fail.$word"
exit 1
"""
GO = """#!/bin/bash
echo "go $1" >> "$PLACE/log"
[ -e "$PLACE/fail.go-$1" ] || exit 0
cat "$PLACE/fail.go-$1" >&2
rm "$PLACE/fail.go-$1"
exit 1
"""
HELD = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 71 (apt-get)\n"


class Machine:
    """A checkout that was never set up, and the machine's programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "requirements", "bin", ".venv/bin", "tests/wire/peers/go"):
            (folder / name).mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup", folder / "scripts/setup")
        shutil.copy(ROOT / "pyproject.toml", folder)
        for name in ("build.txt", "dev.txt"):
            (folder / "requirements" / name).touch()
        (folder / "requirements/debian.txt").write_text(f"run made-up {folder}/installed\n")
        for name, text in {
            "bin/apt-get": APT_GET,
            "bin/apt-cache": APT_CACHE,
            "bin/go": GO,
            ".venv/bin/python": PYTHON,
        }.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        # Root's own sudo, so that the test needs no root.
        (folder / "bin/sudo").write_text('#!/bin/bash\nexec "$@"\n')
        (folder / "bin/sudo").chmod(0o755)

    def fail_once(self, word: str, text: str) -> None:
        (self.folder / f"fail.{word}").write_text(text)

    def setup(self, *arguments: str, pauses: str = "0 0 0 0") -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PLACE": str(self.folder),
            "KATA_PYTHON": "/usr/bin/python3",
            "KATA_SETUP_PAUSES": pauses,
        }
        return subprocess.run(
            [self.folder / "scripts/setup", *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def asked(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_each_thing_is_asked_for_once_when_all_is_well(machine: Machine) -> None:
    done = machine.setup("--tests")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["apt-get update", "apt-get install", "go list", "go build", "pip"]
    assert "again" not in done.stderr


@pytest.mark.parametrize("verb", ["update", "install"])
def test_another_that_holds_apt_is_waited_for_and_named(machine: Machine, verb: str) -> None:
    machine.fail_once(verb, f"{HELD}E: Unable to lock directory\n")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.asked().count(f"apt-get {verb}") == 2
    assert f"== waiting for another apt: {HELD.removeprefix('E: ')}" in done.stderr


@pytest.mark.parametrize("how", ["failed", "half"])
def test_lists_that_did_not_all_come_are_fetched_again(machine: Machine, how: str) -> None:
    if how == "half":
        (machine.folder / "half").touch()  # apt-get succeeds all the same
    else:
        machine.fail_once("update", "E: Temporary failure resolving\n")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.asked()[:3] == ["apt-get update", "apt-get update", "apt-get install"]
    assert "== apt-get update failed; trying again in 0 s" in done.stderr


def test_packages_that_are_not_there_any_more_are_found_with_fresh_lists(machine: Machine) -> None:
    (machine.folder / "lists").touch()
    machine.fail_once("install", "E: Failed to fetch x_1_amd64.deb  404  Not Found\n")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.asked()[:3] == ["apt-get install", "apt-get update", "apt-get install"]
    assert "404  Not Found" in done.stderr


@pytest.mark.parametrize(("word", "asked"), [("pip", "pip"), ("go-list", "go list")])
def test_pip_and_go_are_asked_again_and_their_words_are_shown(
    machine: Machine, word: str, asked: str
) -> None:
    machine.fail_once(word, "ERROR: Connection reset by peer\n")
    done = machine.setup("--tests")
    assert done.returncode == 0, done.stderr
    assert machine.asked().count(asked) == 2
    assert "Connection reset by peer" in done.stderr
    assert "trying again in 0 s" in done.stderr


def test_what_fails_again_and_again_is_the_end_with_its_words(machine: Machine) -> None:
    machine.fail_once("update", "E: The repository is not signed.\n")
    done = machine.setup(pauses="")
    assert done.returncode == 1
    assert machine.asked() == ["apt-get update"]
    assert done.stderr.endswith("E: The repository is not signed.\nscripts/setup: apt-get update failed\n")
    assert not (machine.folder / ".venv/setup-stamp").exists()


def test_go_that_does_not_build_is_left_to_the_tests(machine: Machine) -> None:
    machine.fail_once("go-build", "main.go:1: syntax error\n")
    done = machine.setup("--tests")
    assert done.returncode == 0, done.stderr
    assert (
        "main.go:1: syntax error\n== tests/wire/peers/go does not build: its tests will fail\n" in done.stderr
    )
