"""What a small tree holds: the look at a mirror's source and at its copy.

Owns: the walk, its limits, and what is left out of it. Must not know: copying. Follows: Kata's agent 3.21, "Bind
watcher". A walk during which the tree's owner went on to another version raises `UnsettledError`: half of each is no
version. Of kubelet's layout (`..data` leads to a folder `..TIME`, everything visible leads through `..data`) only the
folder that `..data` leads to is looked at; the one before it and the one after it are kubelet's own affair.
"""

from __future__ import annotations

import errno
import os
import stat

from kata_agent import tree
from kata_linux.record import Record

MAX_ENTRIES = 16
MAX_BYTES = 1 << 20
DATA = "..data"

FOLDER = "folder"
FILE = "file"
LINK = "link"

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KINDS = {stat.S_IFDIR: FOLDER, stat.S_IFREG: FILE, stat.S_IFLNK: LINK}

# Identity, size, and both times: a file that was replaced by one of the same age and size is another one.
Stamp = tuple[int, int, int, int]


class Item(Record):
    """One file, folder or link; `target` is where a link leads."""

    kind: str
    stamp: Stamp
    mode: int
    uid: int
    gid: int
    target: str = ""

    @property
    def size(self) -> int:
        """Bytes of a file."""
        return self.stamp[1]

    @property
    def mtime_ns(self) -> int:
        """When its content changed last."""
        return self.stamp[2]


# By path below the root; the root itself is "".
Snapshot = dict[str, Item]


class TooLargeError(Exception):
    """The tree is not a small one."""


class UnsettledError(Exception):
    """The tree was changed while it was looked at."""


def scan(fd: int, *, is_copy: bool = False) -> Snapshot:
    """The tree at the O_PATH descriptor `fd`; of a copy all of it, however large.

    Raises `TooLargeError`, `UnsettledError`, OSError.
    """
    root = _item(os.fstat(fd))
    if root is None:
        raise OSError(errno.EINVAL, "mirror: neither a file nor a folder")
    found: Snapshot = {"": root}
    if root.kind == FILE:
        _check(found, 0 if is_copy else root.size)
        return found
    before = "" if is_copy else read_data_link(fd)
    total = 0
    folders = [""]
    for folder in folders:
        try:
            total = _scan_folder(fd, folder, before, found, folders, total, is_copy=is_copy)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UnsettledError(f"{error.filename} went while it was looked at") from None
    if not is_copy and read_data_link(fd) != before:
        raise UnsettledError(f"{DATA} was switched meanwhile")
    return found


def fingerprint(fd: int) -> tuple[object, ...]:
    """A cheap look: another value than the last one means that the tree has changed.

    One look at the folder and one at its link where the layout is kubelet's, else the whole tree, which is small.
    """
    found = os.fstat(fd)
    link = read_data_link(fd) if stat.S_ISDIR(found.st_mode) else ""
    if link:
        return (link, *_stamp(found))
    return tuple((path, item.stamp, item.mode, item.uid, item.gid) for path, item in sorted(scan(fd).items()))


def read_data_link(fd: int) -> str:
    """Where `..data` leads; empty without one."""
    try:
        return os.readlink(DATA, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):
            return ""
        raise


def _scan_folder(
    fd: int, folder: str, data: str, found: Snapshot, folders: list[str], total: int, *, is_copy: bool
) -> int:
    names = folder.split("/") if folder else []
    with tree.open_below(fd, names, _FOLDER_FLAGS) as opened:
        for name in sorted(os.listdir(opened)):
            if not folder and data and name.startswith("..") and name not in (DATA, data):
                continue
            item = _item(os.stat(name, dir_fd=opened, follow_symlinks=False))
            if item is None:
                continue  # a socket, a pipe, a device: nothing that a copy could stand for
            if item.kind == LINK:
                item = item._replace(target=os.readlink(name, dir_fd=opened))
            path = f"{folder}/{name}" if folder else name
            found[path] = item
            if item.kind == FOLDER:
                folders.append(path)
            else:
                total += item.size
            if item.kind != FOLDER and not is_copy:
                _check(found, total)
    return total


def _check(found: Snapshot, total: int) -> None:
    if len(found) > MAX_ENTRIES:
        raise TooLargeError(f"more than {MAX_ENTRIES} files and folders")
    if total > MAX_BYTES:
        raise TooLargeError(f"more than {MAX_BYTES} bytes")


def _item(found: os.stat_result) -> Item | None:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    return Item(kind, _stamp(found), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def _stamp(found: os.stat_result) -> Stamp:
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
