"""The guest as a read-only disk: a file system made of all layers, with its dm-verity tree behind it.

The file systems' own tools make it, those of the guest's suite in a root of their own, so that the bytes do not depend
on the machine that builds: fixed times, identifiers drawn from the content, every file root's. One file serves both
ways to boot it: as a disk that is checked block by block, and as persistent memory whose pages the guests share
(hence whole blocks for every file in erofs, and a size that is a multiple of 2 MiB).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from kata_images.buildroot import run_in, unpack_root
from kata_images.cache import key_of
from kata_images.cpio import Entry, Tree, with_parents
from kata_images.inputs import digest_of
from kata_images.manifest import RootImage
from kata_images.verity import BLOCK_BYTES, make_hash_tree
from kata_images.workshop import Workshop, copy_tree

MAKE_DEADLINE_S = 300.0
# A memory device of a guest is mapped in pieces of this size.
ALIGNMENT_BYTES = 2 << 20
_INSIDE = "build"
_INODE_BYTES = 256
_SLACK_BYTES = 1 << 20


def make_root_images(shop: Workshop, layers: Mapping[str, Tree]) -> dict[str, tuple[RootImage, Path]]:
    """Return the disks that the recipe asks for, by file system."""
    names = shop.recipe.root.filesystems
    if not names:
        return {}
    tree = disk_tree({path: entry for layer in layers.values() for path, entry in layer.items()})
    tools = make_tools(shop)
    found = {}
    for name in names:
        with shop.progress.step(f"root disk {name}"):
            found[name] = make_root_image(shop, name, tree, tools)
    return found


def disk_tree(tree: Mapping[str, Entry]) -> Tree:
    """Return what goes onto a disk: device nodes are left out, the kernel has its own by then (pure)."""
    kept = {path: entry for path, entry in tree.items() if not stat.S_ISCHR(entry.mode)}
    return with_parents(kept)


def make_tools(shop: Workshop) -> Path:
    """Return a root with the programs that make file systems."""
    packages = shop.apt.resolve(shop.recipe.root.packages, dependencies=True)
    key = key_of([archive.sha256 for archive in packages])
    if not shop.cache.has("tools", key):
        with shop.progress.step(f"tools for file systems, {len(packages)} packages"):
            files = shop.apt.fetch(packages)
            shop.cache.result("tools", key, lambda folder: unpack_root(files.values(), folder))
    return shop.cache.folder / "tools" / key


def make_root_image(shop: Workshop, name: str, tree: Tree, tools: Path) -> tuple[RootImage, Path]:
    """Return one disk and its file."""
    digest = digest_of(tree)

    def make(folder: Path) -> None:
        made = _make_filesystem(name, tree, digest, tools)
        image = finish_image(made, name, digest, folder / f"root.{name}")
        (folder / "root.json").write_text(json.dumps(asdict(image)))

    folder = shop.cache.result("roots", key_of(name, digest, tools.name, shop.inputs.builder), make)
    image = RootImage(**json.loads((folder / "root.json").read_text()))
    return image, folder / image.file


def finish_image(data: bytes, name: str, digest: str, target: Path) -> RootImage:
    """Write data, tree and padding, and return the description."""
    data += b"\0" * (-len(data) % BLOCK_BYTES)
    tree = make_hash_tree(data, salt=_seed(name, digest, "salt"), uuid=_uuid(name, digest, "tree"))
    whole = len(data) + len(tree.area)
    with target.open("wb") as file:
        file.write(data)
        file.write(tree.area)
        file.truncate(whole + -whole % ALIGNMENT_BYTES)
    return RootImage(target.name, tree.root_hash, len(data), tree.data_blocks, BLOCK_BYTES, tree.salt)


def _make_filesystem(name: str, tree: Tree, digest: str, tools: Path) -> bytes:
    """Run the tool over a copy of the tree inside the tools' root."""
    place = tools / _INSIDE
    shutil.rmtree(place, ignore_errors=True)  # of a builder that was killed
    try:
        (place / "tree").mkdir(parents=True)
        copy_tree(tree, place / "tree")
        for base, folders, files in os.walk(place / "tree"):
            for entry in (base, *(os.path.join(base, item) for item in (*folders, *files))):
                os.utime(entry, (0, 0), follow_symlinks=False)
        argv = COMMANDS[name](tree, _uuid(name, digest, "file system"))
        run_in(tools, argv, deadline_s=MAKE_DEADLINE_S)
        return (place / "image").read_bytes()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def erofs_command(tree: Tree, uuid: UUID) -> list[str]:
    """Return the command for erofs: uncompressed, no file inside its inode, so that each page can be shared (pure)."""
    del tree
    options = ["-T0", f"-U{uuid}", "--all-root", "-x-1", "-Enoinline_data", "--quiet"]
    return ["/usr/bin/mkfs.erofs", *options, f"/{_INSIDE}/image", f"/{_INSIDE}/tree"]


def ext4_command(tree: Tree, uuid: UUID) -> list[str]:
    """Return the command for ext4: without what only a disk that is written to needs (pure but for files' sizes)."""
    blocks = sum(-(-entry.size // BLOCK_BYTES) + 1 for entry in tree.values())
    inodes = len(tree) + 16
    size = (blocks * BLOCK_BYTES + inodes * _INODE_BYTES + _SLACK_BYTES) // BLOCK_BYTES
    features = "^has_journal,^resize_inode,^metadata_csum,^orphan_file,sparse_super2"
    extended = f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,nodiscard,num_backup_sb=0"
    return [
        "/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-I", str(_INODE_BYTES),
        "-m", "0", "-N", str(inodes), "-U", str(uuid), "-O", features, "-E", extended, "-d", f"/{_INSIDE}/tree",
        f"/{_INSIDE}/image", str(size),
    ]  # fmt: skip


COMMANDS: dict[str, Callable[[Tree, UUID], list[str]]] = {"erofs": erofs_command, "ext4": ext4_command}


def _seed(*words: str) -> bytes:
    return sha256("\0".join(words).encode()).digest()


def _uuid(*words: str) -> UUID:
    return UUID(bytes=_seed(*words)[:16], version=4)
