"""Makes a copy the same as its source.

Owns: the writing, by descriptors and without following a link: containers see the copy and may write there. Must not
know: when. What a step has done is found again by the next look at the copy, so a sync that fails in the middle is
simply done again. Blocking: run it in a worker.

A file takes its place by a rename, from a folder beside the copy that no container sees, so inotify tells readers one
thing: the new file is there. A mirror of one single file is written in place instead: who has bound the file holds
the file, not its name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

from kata_agent import tree
from kata_agent.mounts import place
from kata_agent.mounts.mirror import snapshot
from kata_agent.mounts.mirror.plan import Drop, PutFile, PutFolder, PutLink, Step, leaves_old, plan_steps
from kata_agent.mounts.mirror.snapshot import FILE, Item, Snapshot, Stamp, UnsettledError
from kata_linux import mount, mountinfo

ATTEMPTS = 3
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def synchronise(source: str, target: str, known: dict[str, Stamp]) -> bool:
    """Bring the copy up to date; says whether an old version is still to go. `known` is updated when all is done.

    Raises `TooLargeError`, `UnsettledError` when the source does not come to rest, OSError.
    """
    attempts = ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _synchronise(source, target, known)
        except (UnsettledError, FileNotFoundError):
            if not attempts:
                raise


def look(source: str) -> tuple[object, ...]:
    """The source's fingerprint now. Raises as `synchronise`."""
    with open_source(source) as fd:
        return snapshot.fingerprint(fd)


def cover(source: str, target: str) -> None:
    """Bind the source over its copy, once: it has become too large for one."""
    if mountinfo.find_mount(mountinfo.read_mounts(), target) is not None:
        return
    with place.open_place(source) as opened, place.open_place(target) as covered:
        mount.bind(opened, covered)


@contextmanager
def open_source(source: str) -> Iterator[int]:
    """The source as a descriptor (O_PATH)."""
    with place.open_place_fd(source) as fd:
        yield fd


def _synchronise(source: str, target: str, known: dict[str, Stamp]) -> bool:
    with open_source(source) as source_fd:
        wanted = snapshot.scan(source_fd)
        if wanted[""].kind == FILE:
            is_left = _synchronise_file(source_fd, wanted[""], target, known)
        else:
            is_left = _synchronise_folder(source_fd, wanted, target, known)
    known.clear()
    known.update({path: item.stamp for path, item in wanted.items()})
    return is_left


def _synchronise_folder(source_fd: int, wanted: Snapshot, target: str, known: dict[str, Stamp]) -> bool:
    place.make_directories(target)
    folder, name = os.path.split(target)
    with place.open_place_fd(folder) as beside, place.open_place_fd(target) as target_fd:
        steps = plan_steps(wanted, snapshot.scan(target_fd, is_copy=True), known)
        staging = f".{name}.kata-mirror"
        for step in steps:
            _apply(step, source_fd, target_fd, beside, staging)
    return leaves_old(steps)


def _synchronise_file(source_fd: int, wanted: Item, target: str, known: dict[str, Stamp]) -> bool:
    place.make_directories(os.path.dirname(target))
    made = place.make_file(target)
    with place.open_place_fd(target) as target_fd:
        steps = plan_steps({"": wanted}, snapshot.scan(target_fd, is_copy=True), known)
        if not steps and not made:
            return False
        data = _read(f"/proc/self/fd/{source_fd}", None, wanted)
        fd = os.open(f"/proc/self/fd/{target_fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write(fd, data)
            os.ftruncate(fd, len(data))
            _give(fd, wanted)
        finally:
            os.close(fd)
    return False


def _apply(step: Step, source_fd: int, target_fd: int, beside: int, staging: str) -> None:
    *folders, name = step.path.split("/")
    with tree.open_below(target_fd, folders) as parent:
        match step:
            case PutFolder(_, item):
                _put_folder(parent, name, item)
            case PutFile(path, item):
                _make_room(parent, name)
                with tree.open_below(source_fd, path.split("/")[:-1]) as from_folder:
                    data = _read(name, from_folder, item)
                _stage(beside, staging, data, item)
                os.rename(staging, name, src_dir_fd=beside, dst_dir_fd=parent)
            case PutLink(_, item):
                _make_room(parent, name)
                tree.remove(beside, staging)
                os.symlink(item.target, staging, dir_fd=beside)
                os.rename(staging, name, src_dir_fd=beside, dst_dir_fd=parent)
            case Drop():
                tree.remove(parent, name)
            case _:
                assert_never(step)


def _put_folder(parent: int, name: str, item: Item) -> None:
    if name:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
    with tree.open_below(parent, [name] if name else []) as fd:
        os.fchown(fd, item.uid, item.gid)
        os.fchmod(fd, item.mode)


def _make_room(parent: int, name: str) -> None:
    """A rename replaces anything but a folder."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        tree.remove(parent, name)


def _read(path: str, folder: int | None, item: Item) -> bytes:
    """All of a file that is still the one that was looked at."""
    flags = _READ if folder is not None else os.O_RDONLY
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        data = b""
        while len(data) <= item.size and (piece := os.read(fd, item.size + 1 - len(data))):
            data += piece
        after = os.fstat(fd)
        if (after.st_ino, len(data), after.st_mtime_ns, after.st_ctime_ns) != item.stamp:
            raise UnsettledError("a file was changed while it was copied")
        return data
    finally:
        os.close(fd)


def _stage(beside: int, staging: str, data: bytes, item: Item) -> None:
    tree.remove(beside, staging)
    fd = os.open(staging, _WRITE | os.O_EXCL, 0o600, dir_fd=beside)
    try:
        _write(fd, data)
        _give(fd, item)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    offset = 0
    while offset < len(data):
        offset += os.pwrite(fd, data[offset:], offset)


def _give(fd: int, item: Item) -> None:
    """Owner, mode, and the time by which the next look knows what this copy is of."""
    os.fchown(fd, item.uid, item.gid)
    os.fchmod(fd, item.mode)
    os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))
