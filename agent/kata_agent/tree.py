"""Folders and files below a root that the agent trusts, reached by names that it does not.

Owns: resolution that never leaves the root (openat2(2)), making what is missing on the way, removing what is there.
Must not know: why. No link is ever followed: hosts send plain paths, and a container that can write below the root
could plant one. A name that would leave the root gives EXDEV, a link on the way ELOOP or ENOTDIR.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kata_agent.errors import InvalidRequest
from kata_linux import mountinfo, openat2
from kata_linux._libc import fail

_INSIDE = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ONE_MOUNT = _INSIDE | openat2.RESOLVE_NO_XDEV


def split_below(root: str, path: str) -> list[str]:
    """The names that lead from `root` to `path`; none when they are the same. Raises `InvalidRequest`.

    `..` is refused rather than resolved: no host sends it.
    """
    names = [name for name in path.split("/") if name not in ("", ".")]
    start = [name for name in root.split("/") if name]
    if not path.startswith("/") or names[: len(start)] != start:
        raise InvalidRequest(f"path {path!r} is not below {root}")
    if ".." in names:
        raise InvalidRequest(f"path {path!r} contains '..'")
    return names[len(start) :]


@contextmanager
def open_below(root_fd: int, names: list[str], flags: int = _DIRECTORY) -> Iterator[int]:
    """A descriptor of what the names lead to, closed at the end."""
    fd = openat2.openat2(root_fd, "/".join(names) or ".", flags, resolve=_INSIDE)
    try:
        yield fd
    finally:
        os.close(fd)


def make_directories(
    root_fd: int, names: list[str], on_made: Callable[[int, list[str]], None] | None = None
) -> list[list[str]]:
    """Make the folders that are missing on the way and at its end, each 0755. Returns which were made.

    `on_made(fd, names)` is called with each one made, open.
    """
    made = []
    for depth in range(1, len(names) + 1):
        here = names[:depth]
        with open_below(root_fd, here[:-1]) as parent:
            try:
                os.mkdir(here[-1], 0o755, dir_fd=parent)
            except FileExistsError:
                continue
        made.append(here)
        if on_made is not None:
            with open_below(root_fd, here) as fd:
                on_made(fd, here)
    return made


def remove(parent_fd: int, name: str) -> None:
    """Remove a file, a link, or a folder with everything in it. Nothing there is fine.

    A folder with a mount in or below it gives EBUSY before anything is removed. (Mounts are not entered: one that
    is made meanwhile gives EXDEV, and what was removed before stays removed.)
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM) or not _is_directory(parent_fd, name):
            raise
        _refuse_mounts(f"{os.readlink(f'/proc/self/fd/{parent_fd}')}/{name}")
        _empty(parent_fd, name, keep_mounts=False)
        os.rmdir(name, dir_fd=parent_fd)


def _refuse_mounts(path: str) -> None:
    """EBUSY when something is mounted at this path or below it."""
    for entry in mountinfo.read_mounts():
        if entry.mount_point == path or entry.mount_point.startswith(f"{path}/"):
            fail(errno.EBUSY, f"remove a folder with {entry.mount_point} mounted in it", path)


def clear(parent_fd: int, name: str) -> None:
    """Remove what is in a folder, but neither the folder nor anything mounted below it."""
    _empty(parent_fd, name, keep_mounts=True)


def _empty(parent_fd: int, name: str, *, keep_mounts: bool) -> bool:
    """Remove a folder's content; says whether it is empty now."""
    try:
        fd = openat2.openat2(parent_fd, name, _DIRECTORY, resolve=_ONE_MOUNT)
    except OSError as error:
        if error.errno == errno.EXDEV and keep_mounts:
            return False
        raise
    try:
        empty = True
        for entry in os.listdir(fd):
            empty = _remove_entry(fd, entry, keep_mounts=keep_mounts) and empty
        return empty
    finally:
        os.close(fd)


def _remove_entry(fd: int, entry: str, *, keep_mounts: bool) -> bool:
    try:
        if not _is_directory(fd, entry):
            os.unlink(entry, dir_fd=fd)
        elif _empty(fd, entry, keep_mounts=keep_mounts):
            os.rmdir(entry, dir_fd=fd)
        else:
            return False
    except OSError as error:
        if error.errno == errno.EBUSY and keep_mounts:
            return False  # a file that something is mounted on
        if error.errno != errno.ENOENT:
            raise
    return True


def _is_directory(parent_fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode)
