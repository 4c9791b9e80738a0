"""What is installed is locked: every package by version and hash, and the lock covers what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kata_testing.repository import ROOT
from kata_testing.sources import list_files

LOCKS = [
    file
    for file in list_files()
    if file.suffix == ".txt" and "requirements" in str(file.relative_to(ROOT)) and file.name != "debian.txt"
]
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(file: Path) -> dict[str, str]:
    """Name to version."""
    return {normalise(match[1]): match[2] for match in ENTRY.finditer(file.read_text())}


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_locked_package_has_a_hash(file: Path) -> None:
    entries = list(ENTRY.finditer(file.read_text()))
    assert entries
    assert [match[1] for match in entries if not HASH.search(match[3])] == []


def test_the_lock_covers_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = read_lock(ROOT / "requirements" / "dev.txt")
    wanted = {
        normalise(re.split(r"[<>=!~;\[ ]", requirement)[0])
        for extra in project["optional-dependencies"].values()
        for requirement in extra
    }
    assert wanted - locked.keys() == set()


def test_all_locks_agree_on_versions() -> None:
    versions: dict[str, set[str]] = {}
    for file in LOCKS:
        for name, version in read_lock(file).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
