"""Does the operations of a plan, in order, and knows how to undo each.

Owns: system calls for `ops`, the undo stack. Must not know: where a plan comes from. Blocking: run it in a worker.
A mount point is opened without following links below the agent's own root, and the mount is made on that
descriptor: a container that swaps a folder for a link meanwhile moves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

from kata_agent import tree
from kata_agent.errors import AgentError, describe
from kata_agent.mounts import group, ops
from kata_linux import mount, openat2
from kata_linux.record import Record

ROOT = "/run/kata-containers"

_ATTRIBUTES = {
    mount.MS_RDONLY: mount.MOUNT_ATTR_RDONLY,
    mount.MS_NOSUID: mount.MOUNT_ATTR_NOSUID,
    mount.MS_NODEV: mount.MOUNT_ATTR_NODEV,
    mount.MS_NOEXEC: mount.MOUNT_ATTR_NOEXEC,
    mount.MS_NOSYMFOLLOW: mount.MOUNT_ATTR_NOSYMFOLLOW,
    mount.MS_NODIRATIME: 0x80,
}
# The access time is one field of three values; changing it needs the whole field cleared.
_ATIME_FIELD = 0x70
_ATIMES = {mount.MS_NOATIME: 0x10, mount.MS_STRICTATIME: 0x20, mount.MS_RELATIME: 0x00}


class Unmount(Record):
    """Undoes a mount."""

    target: str


class RemoveDirectory(Record):
    """Undoes a folder that was made, if it is empty."""

    path: str


class RemoveFile(Record):
    """Undoes a file that was made."""

    path: str


Undo = Unmount | RemoveDirectory | RemoveFile


class RollbackError(AgentError):
    """The work failed, and so did undoing it; both are told."""

    def __init__(self, error: BaseException, leftovers: list[str]) -> None:
        super().__init__(f"{describe(error)}; and undoing it failed: {'; '.join(leftovers)}")


def apply_plan(plan: tuple[ops.Op, ...]) -> tuple[Undo, ...]:
    """Do the operations. On a failure nothing is left; else the result undoes them, when `undo` gets it."""
    done: list[Undo] = []
    try:
        for op in plan:
            _apply(op, done)
    except BaseException as error:
        leftovers = undo(tuple(done))
        if leftovers:
            raise RollbackError(error, leftovers) from error
        raise
    return tuple(done)


def undo(steps: tuple[Undo, ...]) -> list[str]:
    """Undo in reverse order. Goes on after a failure; the texts of all failures are the result."""
    failures = []
    for step in reversed(steps):
        try:
            _undo(step)
        except OSError as error:
            failures.append(describe(error))
    return failures


def _apply(op: ops.Op, done: list[Undo]) -> None:
    match op:
        case ops.MakeDirectory(path):
            _make_directories(path, done)
        case ops.MakeFile(path):
            _make_file(path, done)
        case ops.MountFilesystem(source, target, fstype, flags, data):
            with open_place(target) as place:
                mount.mount(source, place, fstype, flags, data or None)
            done.append(Unmount(target))
        case ops.Remount(target, flags, data):
            with open_place(target) as place:
                mount.remount(place, flags, data or None)
        case ops.BindMount(source, target, recursive):
            with open_place(target) as place:
                mount.bind(source, place, recursive=recursive)
            done.append(Unmount(target))
        case ops.SetFlags(target, flags, recursive):
            add, remove = attributes(flags)
            with open_place(target) as place:
                mount.set_attributes(place, add=add, remove=remove, recursive=recursive)
        case ops.SetPropagation(target, propagation, recursive):
            with open_place(target) as place:
                mount.set_propagation(place, propagation, recursive=recursive)
        case ops.ChangeGroup(path, gid, read_only, on_mismatch_only):
            with open_place(path) as place:
                group.change_group(place, gid, read_only=read_only, on_mismatch_only=on_mismatch_only)
        case _:
            assert_never(op)


def _undo(step: Undo) -> None:
    match step:
        case Unmount(target):
            mount.umount(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        case RemoveDirectory(path):
            _ignore_missing(os.rmdir, path)
        case RemoveFile(path):
            _ignore_missing(os.unlink, path)
        case _:
            assert_never(step)


def attributes(flags: int) -> tuple[int, int]:
    """mount_setattr(2)'s bits to set and to clear for the per-mount bits of mount(2). Pure."""
    add = sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)
    remove = 0
    for flag, value in _ATIMES.items():
        if flags & flag:
            remove = _ATIME_FIELD
            add |= value
    return add, remove


@contextmanager
def open_place(path: str) -> Iterator[str]:
    """A path that leads to the very file or folder that `path` names now, whatever is renamed meanwhile."""
    root_fd, names, resolve = _locate(path)
    try:
        fd = openat2.openat2(root_fd, "/".join(names) or ".", os.O_PATH, resolve=resolve)
    finally:
        os.close(root_fd)
    try:
        yield f"/proc/self/fd/{fd}"
    except OSError as error:
        _tell_path(error, fd, path)
        raise
    finally:
        os.close(fd)


def _locate(path: str) -> tuple[int, list[str], int]:
    """Where resolution begins, the names from there, and how links are treated."""
    if path == ROOT or path.startswith(ROOT + "/"):
        resolve = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_SYMLINKS
        return openat2.open_root(ROOT), tree.split_below(ROOT, path), resolve
    # Elsewhere are the machine's own links (/var/run), which no container can change.
    return openat2.open_root("/"), tree.split_below("/", path), openat2.RESOLVE_NO_MAGICLINKS


def _tell_path(error: OSError, fd: int, path: str) -> None:
    """Name the place in an error instead of its descriptor."""
    place = f"/proc/self/fd/{fd}"
    if error.filename == place:
        error.filename = path
    if error.filename2 == place:
        error.filename2 = path


def _make_directories(path: str, done: list[Undo]) -> None:
    if path == ROOT or path.startswith(ROOT + "/"):
        os.makedirs(ROOT, mode=0o755, exist_ok=True)
        root_fd, names, _ = _locate(path)
        try:
            made = tree.make_directories(root_fd, names)
            done.extend(RemoveDirectory("/".join((ROOT, *folder))) for folder in made)
        finally:
            os.close(root_fd)
        return
    missing = []
    here = path.rstrip("/")
    while here and not os.path.lexists(here):
        missing.append(here)
        here = os.path.dirname(here)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)
        done.append(RemoveDirectory(folder))
    if not os.path.isdir(path):
        raise NotADirectoryError(20, "make directory: Not a directory", path)


def _make_file(path: str, done: list[Undo]) -> None:
    _make_directories(os.path.dirname(path.rstrip("/")), done)
    with open_place(os.path.dirname(path.rstrip("/"))) as parent:
        name = os.path.basename(path.rstrip("/"))
        try:
            fd = os.open(
                f"{parent}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
            )
        except FileExistsError:
            return
    os.close(fd)
    done.append(RemoveFile(path))


def _ignore_missing(remove: object, path: str) -> None:
    assert callable(remove)  # noqa: S101 - os.rmdir or os.unlink
    try:
        remove(path)
    except FileNotFoundError:
        pass  # somebody else removed it: that is what was wanted
