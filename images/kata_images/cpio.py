"""Entries of the guest's file tree and their one serial form: a cpio archive in the "newc" format.

Written here instead of by the cpio program: no root is needed for device nodes and owners, and equal entries give
equal bytes (sorted by path, time 0, inode numbers by position). Format: Linux's
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One node: `mode` with its file type; `data` is a file's bytes or path, or a link's target."""

    mode: int
    data: bytes | Path = b""
    device: tuple[int, int] = (0, 0)

    def read(self) -> bytes:
        """Return the content (or the link's target)."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    @property
    def size(self) -> int:
        """Return the content's length without reading it."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size


Tree = dict[str, Entry]


def file(data: bytes | Path, mode: int = 0o644) -> Entry:
    """Make a regular file."""
    return Entry(stat.S_IFREG | mode, data)


def folder(mode: int = 0o755) -> Entry:
    """Make a folder."""
    return Entry(stat.S_IFDIR | mode)


def link(target: str) -> Entry:
    """Make a symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, mode: int) -> Entry:
    """Make a character device node."""
    return Entry(stat.S_IFCHR | mode, b"", (major, minor))


def read_tree(root: Path) -> Tree:
    """Return every node below a folder; owners and times are forgotten on purpose."""
    tree: Tree = {}
    for base, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(base, name)
            mode = path.lstat().st_mode
            relative = str(path.relative_to(root))
            if stat.S_ISLNK(mode):
                tree[relative] = link(os.readlink(path))
            elif stat.S_ISDIR(mode):
                tree[relative] = folder(stat.S_IMODE(mode))
            elif stat.S_ISREG(mode):
                tree[relative] = file(path, stat.S_IMODE(mode))
    return tree


def with_parents(tree: Mapping[str, Entry]) -> Tree:
    """Add the folders that paths need: the kernel's unpacker creates none by itself."""
    complete = dict(tree)
    for path in tree:
        for parent in list(Path(path).parents)[:-1]:
            complete.setdefault(str(parent), folder())
    return complete


def pack(tree: Mapping[str, Entry]) -> Iterator[bytes]:
    """Yield the archive, node by node in the order of paths, so that folders come before what they hold."""
    for number, (path, entry) in enumerate(sorted(with_parents(tree).items()), start=1):
        yield _record(path, entry, number)
    yield _record(TRAILER, Entry(0), 0)


def _record(path: str, entry: Entry, number: int) -> bytes:
    name = path.encode() + b"\0"
    data = entry.read()
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields: Iterable[int] = (
        number, entry.mode, 0, 0, links, 0, len(data), 0, 0, *entry.device, len(name), 0,
    )  # fmt: skip
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
