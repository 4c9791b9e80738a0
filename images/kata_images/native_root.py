"""Things for the machine that builds: the static crun, and a busybox root to run as a first container."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kata_images.command import run

FOLDERS = ("bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def place_program(program: Path, target: Path) -> None:
    """Copy a program into place by a rename, so that one that runs is not written to."""
    if target.exists() and target.read_bytes() == program.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(program, fresh)
    fresh.chmod(0o755)
    fresh.rename(target)


def place_busybox_root(program: Path, root: Path) -> None:
    """Make a container's root of busybox, with a link for each applet; what is there already stays."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    place_program(program, root / "bin/busybox")
    for applet in run([str(program), "--list"], deadline_s=20).decode().split():
        if applet != "busybox" and not os.path.lexists(root / "bin" / applet):
            (root / "bin" / applet).symlink_to("busybox")
    for name, text in FILES.items():
        (root / name).write_text(text)
