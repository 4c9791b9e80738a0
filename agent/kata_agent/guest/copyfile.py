"""Files that the host sends in pieces: CopyFile.

Owns: where pieces are gathered, when the file becomes visible, owners and modes. Must not know: the wire.
Follows: Kata's agent 3.21, "CopyFile". Every path is resolved below the root without following a link; a file is
seen under its name only when its last piece has come, by a rename.

Differs where Kata's agent is wrong: `..` is refused, and the temporary name is the target's own (theirs is shared by
all files that differ only in their extension).
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kata_agent import tree
from kata_agent.errors import InvalidRequest
from kata_linux import openat2
from kata_linux.record import Record
from kata_linux.write import write_all

if TYPE_CHECKING:
    from kata_agent.worker import Worker

NAME_LIMIT_BYTES = 255
PATH_LIMIT_BYTES = 4096
LOCKS = 16
_SUFFIX = ".kata-copy"
_LINK_SUFFIX = ".kata-link"


class Piece(Record):
    """One CopyFile request: a piece of a file, a whole folder or a whole link (`data` is where it leads)."""

    path: str
    size: int = 0
    mode: int = 0
    directory_mode: int = 0o755
    uid: int = -1
    gid: int = -1
    offset: int = 0
    data: bytes = b""


class Copier:
    """Writes below `root`. The pieces of one file follow each other; different files seldom wait."""

    def __init__(self, root: str, worker: Worker) -> None:
        self._root = root
        self._worker = worker
        self._locks = tuple(asyncio.Lock() for _ in range(LOCKS))

    async def copy(self, piece: Piece) -> None:
        """Write one piece. Raises `InvalidRequest`, OSError."""
        names = tree.split_below(self._root, piece.path)
        check(piece, names)
        async with self._locks[hash(tuple(names)) % LOCKS]:
            await self._worker.run(partial(self._write, piece, names))

    def _write(self, piece: Piece, names: list[str]) -> None:
        with self._open_parent(piece, names) as parent:
            name = names[-1]
            # A directory's bits are within those of a socket or a block device: hosts mean a folder by all of them.
            if stat.S_IFMT(piece.mode) & stat.S_IFDIR == stat.S_IFDIR:
                make_directory(parent, name, piece)
            elif stat.S_ISLNK(piece.mode):
                make_link(parent, name, piece)
            else:
                write_file(parent, name, piece)

    @contextmanager
    def _open_parent(self, piece: Piece, names: list[str]) -> Iterator[int]:
        """The target's folder, made with all that is missing; only itself gets the mode and owner that were sent."""
        os.makedirs(self._root, mode=0o755, exist_ok=True)
        root_fd = openat2.open_root(self._root)
        try:
            folder = names[:-1]

            def on_made(fd: int, made: list[str]) -> None:
                if made == folder:
                    _give(fd, piece, piece.directory_mode)

            tree.make_directories(root_fd, folder, on_made)
            with tree.open_below(root_fd, folder) as parent:
                yield parent
        finally:
            os.close(root_fd)


def check(piece: Piece, names: list[str]) -> None:
    """Refuse what cannot be written. Pure."""
    if not names:
        raise InvalidRequest(f"path {piece.path!r} is the root of all copied files itself")
    if "\0" in piece.path:
        raise InvalidRequest("path contains a NUL")
    if sum(len(os.fsencode(name)) + 1 for name in names) > PATH_LIMIT_BYTES:
        raise InvalidRequest(f"path {piece.path[:80]!r}... is longer than {PATH_LIMIT_BYTES} bytes")
    if piece.uid < -1 or piece.gid < -1:
        raise InvalidRequest(
            f"{piece.path}: owner {piece.uid}:{piece.gid} is neither an id nor -1 (leave it)"
        )
    if piece.offset < 0 or piece.size < 0:
        raise InvalidRequest(f"{piece.path}: offset {piece.offset} or size {piece.size} is negative")
    if stat.S_ISREG(piece.mode) or not stat.S_IFMT(piece.mode):
        end = piece.offset + len(piece.data)
        if end > piece.size:
            raise InvalidRequest(f"{piece.path}: a piece ends at {end}, beyond the file's size {piece.size}")


def make_directory(parent: int, name: str, piece: Piece) -> None:
    """A folder in place of whatever else is there; an existing one keeps its content."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
    with tree.open_below(parent, [name]) as fd:
        _give(fd, piece, piece.mode)


def make_link(parent: int, name: str, piece: Piece) -> None:
    """A symbolic link in place of whatever is there, at once: hosts switch `..data` of a ConfigMap so."""
    if b"\0" in piece.data:
        raise InvalidRequest(f"{piece.path}: the link's target contains a NUL")
    temporary = temporary_name(name, _LINK_SUFFIX)
    tree.remove(parent, temporary)
    os.symlink(piece.data, temporary, dir_fd=parent)
    try:
        os.chown(temporary, piece.uid, piece.gid, dir_fd=parent, follow_symlinks=False)
        if _is_directory(parent, name):
            tree.remove(parent, name)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        os.unlink(temporary, dir_fd=parent)
        raise


def write_file(parent: int, name: str, piece: Piece) -> None:
    """A piece of a file; with the last one the file takes its place."""
    temporary = temporary_name(name)
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if piece.offset else os.O_CREAT | os.O_TRUNC)
    try:
        fd = os.open(temporary, flags, 0o600, dir_fd=parent)
    except FileNotFoundError:
        if not _has_piece(parent, name, piece):
            raise InvalidRequest(
                f"{piece.path}: a piece at {piece.offset} without the ones before it"
            ) from None
        return  # the last piece once more, because its reply was lost
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "write piece: not a regular file", piece.path)
        write_all(fd, piece.data, piece.offset)
        if os.fstat(fd).st_size < piece.size:
            return
        try:
            _give(fd, piece, piece.mode)
            if _is_directory(parent, name):
                tree.remove(parent, name)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            os.unlink(temporary, dir_fd=parent)  # a file that cannot take its place is of no use
            raise
    finally:
        os.close(fd)


def _has_piece(parent: int, name: str, piece: Piece) -> bool:
    """Whether the finished file already holds this very piece."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    except OSError:
        return False  # nothing there, or something that is no file: then it has not been written
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != piece.size:
            return False
        return os.pread(fd, len(piece.data), piece.offset) == piece.data
    finally:
        os.close(fd)


def temporary_name(name: str, suffix: str = _SUFFIX) -> str:
    """Where the pieces of `name` are gathered: one name for all of them, and of no other file. Pure."""
    plain = f".{name}{suffix}"
    if len(os.fsencode(plain)) <= NAME_LIMIT_BYTES:
        return plain
    import hashlib  # only for names that leave no room

    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{suffix}"


def _give(fd: int, piece: Piece, mode: int) -> None:
    """Owner before mode: a change of owner takes the set-user-id bits away."""
    os.fchown(fd, piece.uid, piece.gid)
    os.fchmod(fd, stat.S_IMODE(mode))


def _is_directory(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
