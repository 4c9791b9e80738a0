"""The files of the repository as git sees them: policy tests look at what would be committed and nothing else."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from kata_testing.repository import ROOT

PACKAGES = ("protocols", "init", "agent", "host", "images", "bench")
GENERATED = ROOT / "protocols" / "kata_protocols" / "gen"


@cache
def list_files() -> tuple[Path, ...]:
    """Every file that is tracked, or would be by `git add --all`."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return tuple(sorted({ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()}))


def list_modules() -> tuple[Path, ...]:
    """The Python files of our packages, without generated ones and tests."""
    return tuple(
        file
        for file in list_files()
        if file.suffix == ".py"
        and file.relative_to(ROOT).parts[0] in PACKAGES
        and GENERATED not in file.parents
    )
