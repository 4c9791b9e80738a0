"""Copies of this repository's guest packages, as code for an upgrade, whole or changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from kata_testing.repository import ROOT

PACKAGES = ("agent/kata_agent", "init/kata_init", "init/kata_linux", "protocols/kata_protocols")


def copy_code(folder: Path, **replaced: tuple[str, str]) -> Path:
    """The packages in a new folder. `replaced` is old and new text by module: `kata_agent__serve=("a", "b")`."""
    folder.mkdir()
    for path in PACKAGES:
        source = ROOT / path
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in replaced.items():
        module = folder / (name.replace("__", "/") + ".py")
        text = module.read_text(encoding="utf-8")
        assert old in text, f"{module} does not contain {old!r}"
        module.write_text(text.replace(old, new), encoding="utf-8")
    return folder
