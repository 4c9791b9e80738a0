"""Disks for tests: files behind loop devices."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 60.0


def run(*command: str | Path) -> str:
    """Run a tool; its failure has what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, f"{command[0]} exited {done.returncode}: {done.stderr}"
    return done.stdout


def make_image(path: Path, size: int, *mkfs: str) -> Path:
    """A sparse file, with a file system if a command that makes one is given."""
    with path.open("wb") as file:
        file.truncate(size)
    if mkfs:
        run(*mkfs, path)
    return path


@contextmanager
def attach(image: Path) -> Iterator[str]:
    """The loop device of a file, for as long as the context lasts."""
    device = run("losetup", "--find", "--show", image).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def grow(image: Path, device: str, size: int) -> None:
    """Make the disk larger, as a host does with a running guest's."""
    with image.open("r+b") as file:
        file.truncate(size)
    run("losetup", "--set-capacity", device)
