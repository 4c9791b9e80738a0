"""Packing a layer: cpio through zstd, one thread and a fixed level, so that equal trees give equal bytes."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from kata_images.command import default_environment, run
from kata_images.cpio import Tree, pack
from kata_images.errors import ImageError
from kata_images.manifest import Layer

ARCHIVE = "layer.cpio.zst"


def zstd_version() -> str:
    """Return the version of the zstd program: it decides the bytes, so it is an input."""
    text = run(["zstd", "--version"], deadline_s=20).decode()
    found = re.search(r"v(\d[\d.]*)", text)
    return found[1] if found else "unknown"


def pack_layer(name: str, tree: Tree, level: int, folder: Path) -> None:
    """Write a layer's archive and its description into a folder."""
    target = folder / ARCHIVE
    argv = ["zstd", f"-{level}", "-T1", "--quiet", "--no-progress", "-o", str(target)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, env=default_environment()) as program:
        try:
            if program.stdin is not None:
                for piece in pack(tree):
                    program.stdin.write(piece)
                program.stdin.close()
        except BaseException:
            program.kill()
            raise
        if program.wait() != 0:
            raise ImageError(f"zstd failed with status {program.returncode} on layer {name}")
    files = [entry for entry in tree.values() if entry.mode & 0o170000 == 0o100000]
    layer = Layer(
        name=name,
        files=len(files),
        installed=sum(entry.size for entry in files),
        compressed=target.stat().st_size,
        sha256=sha256(target.read_bytes()).hexdigest(),
    )
    (folder / "layer.json").write_text(json.dumps(asdict(layer)))


def read_layer(folder: Path) -> Layer:
    """Return the description of a packed layer."""
    return Layer(**json.loads((folder / "layer.json").read_text()))
