"""Does the operations of a plan, in order, and collects what undoes each.

Owns: system calls for `ops`. Must not know: where a plan comes from. Blocking: run it in a worker. A mount point is
opened without following links below the agent's own root, and the mount is made on that descriptor: a container
that swaps a folder for a link meanwhile moves nothing.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, assert_never

from kata_agent.errors import AgentError, WrongState, describe, operation
from kata_agent.mounts import group, hugepool, ops, option, place, timing
from kata_agent.mounts.undo import (
    CloseChecked,
    EndMirror,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    ReturnPages,
    Undo,
    Unmount,
    undo,
)
from kata_linux import fscontext, mount, openat2

if TYPE_CHECKING:
    from kata_linux.kernel_tail import KernelTail

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
        leftovers = undo(done)
        if leftovers:
            raise RollbackError(error, leftovers) from error
        raise
    return tuple(done)


def attributes(flags: int) -> tuple[int, int]:
    """mount_setattr(2)'s bits to set and to clear for the per-mount bits of mount(2). Pure."""
    add = sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)
    remove = 0
    for flag, value in _ATIMES.items():
        if flags & flag:
            remove = _ATIME_FIELD
            add |= value
    return add, remove


def _apply(op: ops.Op, done: list[Undo]) -> None:
    match op:
        case ops.MakeDirectory(path, lasting):
            made = place.make_directories(path)
            done.extend(RemoveDirectory(folder) for folder in made if not lasting)
        case ops.MakeVolume(path):
            *parents, last = place.make_directories(path) or [""]
            done.extend(RemoveDirectory(folder) for folder in parents)
            if last:
                done.append(RemoveTree(last))
        case ops.MakeFile(path):
            folders = place.make_directories(os.path.dirname(path.rstrip("/")))
            done.extend(RemoveDirectory(folder) for folder in folders)
            if place.make_file(path):
                done.append(RemoveFile(path))
        case ops.Mirror(source, target):
            done.append(EndMirror(source, target))
            _mirror(source, target)
        case ops.TakeRoot(path):
            done.extend((RemoveTree(path), Unmount(path, perhaps=True)))
            _check_root(path)
        case ops.CopyProgram(source, target, path):
            _copy_program(source, target, path)
        case ops.ReservePages(page_size, pages):
            hugepool.reserve(page_size, pages)
            done.append(ReturnPages(page_size, pages))
        case ops.ChangeGroup(path, gid, read_only, on_mismatch_only):
            _change_group(path, gid, read_only=read_only, on_mismatch_only=on_mismatch_only)
        case ops.SetAccess(path, gid, mode, add):
            _set_access(path, gid, mode, add)
        case _:
            _mount(op, done)


def _mount(op: ops.MountOp, done: list[Undo]) -> None:
    match op:
        case ops.MountFilesystem(_, target):
            _mount_filesystem(op)
            done.append(Unmount(target))
        case ops.Remount(target, flags, data):
            parameters = option.split_parameters(flags, data)
            with place.open_place_fd(target) as fd:
                fscontext.reconfigure(parameters, fd, target)
        case ops.BindMount(source, target, recursive):
            _bind(source, target, recursive=recursive)
            done.append(Unmount(target))
        case ops.SetFlags(target, flags, recursive):
            add, remove = attributes(flags)
            with place.open_place(target) as opened:
                mount.set_attributes(opened, add=add, remove=remove, recursive=recursive)
        case ops.SetPropagation(target, propagation, recursive):
            with place.open_place(target) as opened:
                mount.set_propagation(opened, propagation, recursive=recursive)
        case ops.CheckedDevice():
            from kata_agent.mounts import checked  # only guests with such disks pay for it

            checked.open_device(op)
            done.append(CloseChecked(op.name))
        case _:
            assert_never(op)


def _bind(source: str, target: str, *, recursive: bool) -> None:
    """The source, too, is what is there now: below the agent's root a link that a container planted is refused."""
    try:
        shown = place.open_source(source)
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, f"bind mount: {os.strerror(number)}", source, None, target) from error
    try:
        with place.open_place(target) as opened:
            mount.bind(f"/proc/self/fd/{shown}", opened, recursive=recursive)
    except OSError as error:
        error.filename, error.filename2 = source, target
        raise
    finally:
        os.close(shown)


def _change_group(path: str, gid: int, *, read_only: bool, on_mismatch_only: bool) -> None:
    with place.open_place(path) as opened:
        try:
            group.change_group(opened, gid, read_only=read_only, on_mismatch_only=on_mismatch_only)
        except OSError as error:  # it names a descriptor, which tells nobody anything
            number = error.errno or 0
            raise OSError(number, f"give to group {gid}: {os.strerror(number)}", path) from error


def _mount_filesystem(op: ops.MountFilesystem) -> None:
    """mount(2), which is the quicker one. What it refuses is asked for again step by step, for the kernel's words."""
    with place.open_place(op.target) as opened:
        started = time.monotonic_ns()
        try:
            mount.mount(op.source, opened, op.fstype, op.flags, op.data or None)
            timing.note(op.target, time.monotonic_ns() - started)
        except OSError:
            _mount_for_words(op, opened)


def _mount_for_words(op: ops.MountFilesystem, opened: str) -> None:
    """The same in steps; a refusal has the kernel's words, from the context's log or from its own, where it prints."""
    tail = _open_tail()
    try:
        parameters = option.split_parameters(op.flags, op.data)
        if fscontext.fits(parameters):
            fd = int(opened.rpartition("/")[2])
            fscontext.mount(op.fstype, op.source, parameters, attributes(op.flags)[0], fd, op.target)
        else:
            mount.mount(op.source, opened, op.fstype, op.flags, op.data or None)
    except OSError as error:
        number = error.errno or 0
        said = [line for line in (tail.read() if tail else ()) if _concerns(line, op)]
        words = "; ".join([operation(error) or f"mount {op.fstype}", *said])
        raise OSError(number, f"{words}: {os.strerror(number)}", op.target) from error
    finally:
        if tail:
            tail.close()


def _open_tail() -> KernelTail | None:
    """None where the log is not ours to read, as in a container: the errno has to do."""
    from kata_linux.kernel_tail import KernelTail  # who mounts without a refusal does not pay for it

    try:
        return KernelTail()
    except OSError:
        return None


def _concerns(line: str, op: ops.MountFilesystem) -> bool:
    """Whether a line of the kernel's log names the file system or its source. Pure."""
    names = (op.fstype, os.path.basename(op.source))
    return any(name and name.lower() in line.lower() for name in names)


def _check_root(path: str) -> None:
    try:
        with place.open_place(path) as opened:
            if os.listdir(opened):
                return
    except FileNotFoundError:
        pass
    raise WrongState(f"{path}: the image was reported as pulled, but there is no root")


def _copy_program(source: str, target: str, path: str) -> None:
    """Links are followed below `source` only; the copy's folders are made."""
    folder, _ = os.path.split(f"{target}/{path}")
    place.make_directories(folder)
    root = openat2.open_root(source)
    try:
        fd = openat2.openat2(root, path, os.O_RDONLY, resolve=openat2.RESOLVE_IN_ROOT)
    finally:
        os.close(root)
    with open(fd, "rb") as program, place.open_place(folder) as opened:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        with open(f"{opened}/{os.path.basename(path)}", "xb") as copied:
            while piece := program.read(1 << 20):
                copied.write(piece)
            os.fchmod(copied.fileno(), mode)


def _mirror(source: str, target: str) -> None:
    from kata_agent.mounts.mirror import copy, snapshot  # only guests with such volumes pay for it

    try:
        copy.synchronise(source, target, {})
    except snapshot.UnsettledError as error:
        raise WrongState(f"mirror {source}: {error}; it does not come to rest") from None


def _set_access(path: str, gid: int, mode: int | None, add: int) -> None:
    with place.open_place(path) as opened:
        if gid >= 0:
            os.chown(opened, -1, gid)
        if mode is not None or add:
            base = stat.S_IMODE(os.stat(opened).st_mode) if mode is None else mode
            os.chmod(opened, base | add)
