"""Places in the mount tree: opening them, making them, removing them.

Owns: resolution of mount points. Must not know: plans. Below the agent's own root no link is followed, because a
container may write there; elsewhere are the machine's own links (/var/run), which no container can change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kata_agent import tree
from kata_linux import openat2

ROOT = "/run/kata-containers"


@contextmanager
def open_place(path: str) -> Iterator[str]:
    """A path that leads to the very file or folder that `path` names now, whatever is renamed meanwhile."""
    with open_place_fd(path) as fd:
        try:
            yield f"/proc/self/fd/{fd}"
        except OSError as error:
            _tell_path(error, fd, path)
            raise


@contextmanager
def open_place_fd(path: str) -> Iterator[int]:
    """The same as a descriptor (O_PATH)."""
    root_fd, names, resolve = _locate(path)
    try:
        fd = openat2.openat2(root_fd, "/".join(names) or ".", os.O_PATH, resolve=resolve)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(root_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def open_source(path: str) -> int:
    """What is to be shown elsewhere, as a descriptor (O_PATH) that the caller closes."""
    with open_place_fd(path) as fd:
        return os.dup(fd)


def make_directories(path: str) -> list[str]:
    """Make the folders that are missing, each 0755. Returns which were made, outermost first."""
    if _is_ours(path):
        os.makedirs(ROOT, mode=0o755, exist_ok=True)
        root_fd, names, _ = _locate(path)
        try:
            return ["/".join((ROOT, *folder)) for folder in tree.make_directories(root_fd, names)]
        except OSError as error:
            raise OSError(error.errno, f"make folders: {os.strerror(error.errno or 0)}", path) from error
        finally:
            os.close(root_fd)
    missing: list[str] = []
    here = path.rstrip("/")
    while here and not os.path.lexists(here):
        missing.append(here)
        here = os.path.dirname(here)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)
    if not os.path.isdir(path):
        raise NotADirectoryError(20, "make directory: Not a directory", path)
    return missing[::-1]


def make_file(path: str) -> bool:
    """Make an empty file, 0644, in a folder that is there. Says whether it was made."""
    folder, name = os.path.split(path.rstrip("/"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open_place_fd(folder) as parent:
        try:
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
        except FileExistsError:
            return False
    return True


def remove_tree(path: str) -> None:
    """Remove a folder with everything in it, but nothing that is mounted there."""
    folder, name = os.path.split(path.rstrip("/"))
    with open_place_fd(folder) as parent:
        tree.remove(parent, name)


def _is_ours(path: str) -> bool:
    return path == ROOT or path.startswith(ROOT + "/")


def _locate(path: str) -> tuple[int, list[str], int]:
    """Where resolution begins, the names from there, and how links are treated."""
    if _is_ours(path):
        resolve = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_SYMLINKS
        return openat2.open_root(ROOT), tree.split_below(ROOT, path), resolve
    return openat2.open_root("/"), tree.split_below("/", path), openat2.RESOLVE_NO_MAGICLINKS


def _tell_path(error: OSError, fd: int, path: str) -> None:
    """Name the place in an error instead of its descriptor."""
    place = f"/proc/self/fd/{fd}"
    if error.filename == place:
        error.filename = path
    if error.filename2 == place:
        error.filename2 = path
