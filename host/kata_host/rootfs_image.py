"""A folder as a read-only disk image, for machines that cannot have a shared folder: a container's root on a block
device.

Owns: the images' cache, one image for each folder, made anew when anything in the folder has changed. What counts is
what lstat(2) says of each entry (size, both times, owner, mode, inode): to read the contents would take longer than
the image does. erofs where its tool is, else ext4. Must not know: who mounts an image, or where.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kata_host.vm.base import VmError
from kata_host.vm.process import Child
from kata_host.vm.state import lock_root, make_private

TIMEOUT_S = 600.0
MAX_IMAGES = 16
_MIB = 1 << 20
# What ext4 needs beside the files: inodes, a block for each beginning, group tables.
_EXT4_SPARE = 8 * _MIB


class ImageError(VmError):
    """No image can be made of a folder; the text says why."""


@dataclass(frozen=True)
class RootImage:
    """An image, and how the guest's kernel mounts it."""

    path: Path
    fstype: str

    @property
    def options(self) -> tuple[str, ...]:
        """Mount options: read-only, and no journal to be replayed."""
        return ("ro", "noload") if self.fstype == "ext4" else ("ro",)


@dataclass(frozen=True)
class Tool:
    """A file system, and the program that makes it of a folder."""

    fstype: str
    program: str

    def plan(self, folder: Path, image: Path) -> list[str]:
        """The command. Pure."""
        if self.fstype == "erofs":
            return [self.program, "--quiet", str(image), str(folder)]
        words = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]
        return [self.program, *words, str(folder), str(image)]


async def find_image(folder: Path, cache: Path, tool: Tool | None = None) -> RootImage:
    """The image of a folder as it is now, from the cache if it is there. Raises `ImageError`, `StateError`, OSError."""
    tool = tool or find_tool()
    known = await asyncio.to_thread(_look, folder, cache, tool.fstype)
    if _use(known.image):
        return RootImage(known.image, tool.fstype)
    with _open_draft(cache) as draft:
        await make_image(tool, known.folder, draft, known.bytes)
        if (await asyncio.to_thread(_look, folder, cache, tool.fstype)).image != known.image:
            raise ImageError(f"{folder}: it was changed while an image was made of it; try again")
        _keep(draft, known)
    return RootImage(known.image, tool.fstype)


def find_tool(path: str | None = None) -> Tool:
    """The file system that can be made here, and its program. Raises `ImageError`."""
    path = path or f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for fstype, program in (("erofs", "mkfs.erofs"), ("ext4", "mke2fs")):
        if found := shutil.which(program, path=path):
            return Tool(fstype, found)
    raise ImageError("mkfs.erofs, mke2fs: neither is there; install the package erofs-utils or e2fsprogs")


@dataclass(frozen=True)
class _Known:
    """A folder as it is now: where its image is if there is one, and the bytes of its files, a block for each more."""

    folder: Path
    place: str
    image: Path
    bytes: int


def _look(folder: Path, cache: Path, fstype: str) -> _Known:
    folder = folder.resolve()
    if not folder.is_dir():
        raise ImageError(f"{folder}: the root file system is no folder")
    make_private(cache, "empty it or take its rights away")
    digest = hashlib.sha256()
    total = 0
    for name, path in _walk(str(folder), ""):
        found = os.lstat(path)
        times = (found.st_mtime_ns, found.st_ctime_ns)
        row = (
            name,
            found.st_mode,
            found.st_uid,
            found.st_gid,
            found.st_size,
            found.st_ino,
            found.st_rdev,
            times,
        )
        digest.update(repr(row).encode(errors="surrogateescape"))
        total += found.st_size + 4096
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return _Known(folder, place, cache / f"{place}-{digest.hexdigest()[:32]}.{fstype}", total)


def _use(image: Path) -> bool:
    """Whether it is there; the one that was used last is the last to go."""
    try:
        os.utime(image)
    except FileNotFoundError:
        return False
    return True


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Name and path of everything below a folder, in one order always."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        yield prefix + entry.name, entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{prefix}{entry.name}/")


@contextmanager
def _open_draft(cache: Path) -> Iterator[Path]:
    """A file to write to, locked for as long as its maker lives; those of makers that died are swept."""
    with lock_root(cache):
        for left in cache.glob(".draft-*"):
            with suppress(BlockingIOError, FileNotFoundError), left.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
        fd, name = tempfile.mkstemp(prefix=".draft-", dir=cache)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(fd)


async def make_image(tool: Tool, folder: Path, image: Path, size: int = 0) -> None:
    """Write an image of a folder whose files have that many bytes into a file. Raises `ImageError`."""
    if tool.fstype == "ext4":
        image.touch(mode=0o600)  # noqa: ASYNC240 - a name
        os.truncate(image, (size * 5 // 4 + _EXT4_SPARE + _MIB - 1) // _MIB * _MIB)
    log = Path(f"{image}.log")  # a draft, too: swept if we are killed
    try:
        async with Child(tool.program, tool.plan(folder, image), log=log) as child:
            async with asyncio.timeout(TIMEOUT_S):
                status = await child.wait()
            if status != 0:
                raise ImageError(
                    f"{folder}: no {tool.fstype} image could be made of it: {child.describe_end()}"
                )
    except TimeoutError:
        raise ImageError(f"{folder}: no {tool.fstype} image in {TIMEOUT_S:g} s") from None
    finally:
        log.unlink(missing_ok=True)  # noqa: ASYNC240 - a file of a line


def _keep(draft: Path, known: _Known) -> None:
    """Put an image in its place, and away with the one that the folder had, and the longest unused one of others.

    Machines that run have theirs open.
    """
    cache = known.image.parent
    for old in cache.glob(f"{known.place}-*"):
        old.unlink(missing_ok=True)
    kept = sorted(cache.glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in kept[MAX_IMAGES - 1 :]:
        old.unlink(missing_ok=True)
    draft.replace(known.image)
