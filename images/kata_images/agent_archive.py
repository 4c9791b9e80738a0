"""The agent's layer as a zip archive, for the live upgrade of guests that run: what `kata-agent-ctl upgrade` takes.

Stored and with one date, so that equal trees give equal bytes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from kata_images.cpio import Tree
from kata_images.layers import LIBRARY

NAME = "agent.zip"


def write_agent_archive(tree: Tree, path: Path) -> None:
    """Write the files below the library folder; byte code of the guest's own interpreter, as the image has it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in sorted(tree.items()):
            if entry.mode & 0o170000 == 0o100000:
                archive.writestr(zipfile.ZipInfo(name.removeprefix(f"{LIBRARY}/")), entry.read())
