"""What the steps of one build share: inputs, packages, cache, the list of parts, and where progress is shown."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kata_images.apt import Apt, Archive, unpack
from kata_images.cache import Cache
from kata_images.cpio import Tree, read_tree
from kata_images.inputs import Inputs
from kata_images.manifest import Part
from kata_images.progress import Progress
from kata_images.recipe import Recipe


@dataclass(frozen=True)
class Workshop:
    """One build's tools; `parts` grows while steps run."""

    inputs: Inputs
    apt: Apt
    cache: Cache
    progress: Progress
    jobs: int
    zstd: str
    parts: list[Part] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """Return the recipe."""
        return self.inputs.recipe

    @property
    def python(self) -> str:
        """Return the guest's Python version, `3.13`, as its interpreter's name tells it."""
        return re.sub(r".*python", "", self.recipe.python.interpreter)

    def fetch_unpacked(self, names: Sequence[str]) -> list[tuple[Archive, Path]]:
        """Return packages by name, each with the folder it is unpacked in."""
        archives = self.apt.resolve(names, dependencies=False)
        files = self.apt.fetch(archives)
        return [(archive, self._unpacked(archive, files[archive.sha256])) for archive in archives]

    def _unpacked(self, archive: Archive, deb: Path) -> Path:
        return self.cache.result("packages", archive.sha256[:24], lambda folder: unpack(deb, folder))

    def record(self, group: str, archive: Archive, installed: int, *, name: str = "") -> None:
        """Note a Debian file as a part of the image."""
        origin = f"debian {self.recipe.image.suite} {archive.pool}"
        part = Part(
            name=name or archive.name,
            group=group,
            version=archive.version,
            origin=origin,
            sha256=archive.sha256,
            size=archive.size,
            installed=installed,
        )
        self.parts.append(part)


def copy_tree(tree: Tree, root: Path) -> None:
    """Write files, links and folders of a tree below a folder."""
    for path, entry in sorted(tree.items()):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(entry.mode):
            target.mkdir(exist_ok=True)
            target.chmod(stat.S_IMODE(entry.mode))
        elif stat.S_ISLNK(entry.mode):
            target.symlink_to(entry.read().decode())
        else:
            target.write_bytes(entry.read())
            target.chmod(stat.S_IMODE(entry.mode))


def size_of(tree: Tree) -> int:
    """Return the bytes of a tree's files."""
    return sum(entry.size for entry in tree.values() if stat.S_ISREG(entry.mode))


def size_below(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return size_of(read_tree(folder))
