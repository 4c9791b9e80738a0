"""manifest.json: what is in the image, how big each part is, and where it came from (pure but for hashing files).

No mirror's name and no time is in it, so that equal inputs give an equal manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

FORMAT = 2
# The budget of the project counts these together.
BUDGET_GROUP = ("python", "libraries", "agent")


@dataclass(frozen=True)
class Part:
    """One package, library or source: `size` and `sha256` of the file it came in, `installed` bytes in the image."""

    name: str
    group: str
    version: str
    origin: str
    sha256: str
    size: int
    installed: int


@dataclass(frozen=True)
class Layer:
    """One archive of the initrd."""

    name: str
    files: int
    installed: int
    compressed: int
    sha256: str


@dataclass(frozen=True)
class RootImage:
    """One disk as the manifest describes it. The first `data_blocks` blocks are what the hash vouches for."""

    file: str
    root_hash: str
    hash_offset: int
    data_blocks: int
    block_bytes: int
    salt: str


def describe_file(path: Path) -> dict[str, object]:
    """Return size and digest of an output."""
    return {"size": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest()}


def make_manifest(
    *, key: str, release: str, suite: str, tools: dict[str, str], parts: Iterable[Part], layers: Iterable[Layer],
    outputs: dict[str, Path], stage: Layer | None = None, roots: Mapping[str, RootImage] = MappingProxyType({}),
) -> dict[str, Any]:  # fmt: skip
    """Return the document; `roots` are the disks by file system, `stage` is what is in their initramfs."""
    layers = list(layers)
    counted = sum(layer.compressed for layer in layers if layer.name in BUDGET_GROUP)
    return {
        "format": FORMAT,
        "inputs": key,
        "kernel": release,
        "suite": suite,
        "tools": tools,
        "outputs": {name: describe_file(path) for name, path in sorted(outputs.items())},
        "layers": [asdict(layer) for layer in layers],
        "stage": asdict(stage) if stage else None,
        "roots": {name: asdict(image) for name, image in sorted(roots.items())},
        "interpreter_agent_libraries": counted,
        "parts": [asdict(part) for part in sorted(parts, key=lambda part: (part.group, part.name))],
    }


def is_current(document: dict[str, Any], key: str, folder: Path) -> bool:
    """Tell whether the outputs beside a manifest are those of these inputs, byte for byte."""
    if document.get("format") != FORMAT or document.get("inputs") != key:
        return False
    outputs: dict[str, dict[str, object]] = document["outputs"]
    return all(
        (folder / name).is_file() and describe_file(folder / name) == row for name, row in outputs.items()
    )


def format_table(document: dict[str, Any]) -> str:
    """Return what `kata-image show` prints."""
    lines = [f"kernel {document['kernel']}, Debian {document['suite']}", ""]
    for name, output in document["outputs"].items():
        lines.append(f"{name:<24}{mega(output['size'])}  sha256 {output['sha256'][:16]}")
    for name, image in document["roots"].items():
        lines.append(f"{name + ' root hash':<24}{image['root_hash']}")
    lines += ["", f"{'layer of the initrd':<24}{'packed':>9}  {'unpacked':>9}  files"]
    for layer in document["layers"]:
        sizes = f"{mega(layer['compressed'])}  {mega(layer['installed'])}"
        lines.append(f"{layer['name']:<24}{sizes}  {layer['files']:>5}")
    lines.append(f"{'/'.join(BUDGET_GROUP):<24}{mega(document['interpreter_agent_libraries'])}")
    lines += ["", f"{'part':<48}{'version':<28}{'in image':>9}  origin"]
    for part in document["parts"]:
        lines.append(f"{part['name']:<48}{part['version']:<28}{mega(part['installed'])}  {part['origin']}")
    return "\n".join(lines)


def mega(size: int) -> str:
    """Return a size in megabytes (10^6 bytes), nine characters wide."""
    return f"{size / 1e6:>6.2f} MB"
