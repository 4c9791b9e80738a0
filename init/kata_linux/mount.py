"""Mounting: mount(2), umount2(2), pivot_root(2), mount_setattr(2), one function for each way to use them.

Owns: flag values and calls. Must not know: option strings, which mounts make sense, or what is mounted
already (`mountinfo` does). Errors to expect: EBUSY (in use), EINVAL (not a mount point, wrong propagation),
ENODEV (the kernel has no such file system), ENOENT, EPERM.
"""

from __future__ import annotations

import struct

from kata_linux._libc import AT_FDCWD, call, system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata_linux._libc import Path

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_AT_RECURSIVE = 0x8000
_AT_EMPTY_PATH = 0x1000
_AT_NO_AUTOMOUNT = 0x800
_SYS_OPEN_TREE = 428  # one number on every architecture since Linux 5.2
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40


def mount(source: Path | None, target: Path, fstype: str, flags: int = 0, data: str | None = None) -> None:
    """Mount a file system; `data` is the comma-separated rest that the file system itself reads."""
    call("mount", source, target, fstype, flags, data, operation=f"mount {fstype}", path=target)


def bind(source: Path, target: Path, *, recursive: bool = False) -> None:
    """Show `source` at `target` too. Flags other than recursion need a `remount_bind` afterwards."""
    flags = MS_BIND | (MS_REC if recursive else 0)
    call("mount", source, target, None, flags, None, operation="bind mount", path=source, path2=target)


def remount(target: Path, flags: int, data: str | None = None) -> None:
    """Change flags and data of the file system mounted at `target`, for everyone who sees it."""
    call("mount", None, target, None, MS_REMOUNT | flags, data, operation="remount", path=target)


def remount_bind(target: Path, flags: int) -> None:
    """Change the per-mount flags (read-only, nosuid, ...) of this one mount; those not given are cleared."""
    call("mount", None, target, None, MS_REMOUNT | MS_BIND | flags, None, operation="remount", path=target)


def move(source: Path, target: Path) -> None:
    """Move a mount; EINVAL when the parent of `source` is shared."""
    call("mount", source, target, None, MS_MOVE, None, operation="move mount", path=source, path2=target)


def set_propagation(target: Path, propagation: int, *, recursive: bool = False) -> None:
    """Set one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE."""
    flags = propagation | (MS_REC if recursive else 0)
    call("mount", None, target, None, flags, None, operation="set propagation", path=target)


def umount(target: Path, flags: int = 0) -> None:
    """Unmount; MNT_DETACH lets go now and frees when the last user does."""
    call("umount2", target, flags, operation="umount", path=target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make `new_root` the root, the old one hangs on `put_old`; EINVAL when the root is the initramfs."""
    call("pivot_root", new_root, put_old, operation="pivot_root", path=new_root)


def set_attributes(target: Path, *, add: int = 0, remove: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2): add and remove MOUNT_ATTR_* flags, of the whole tree at once when `recursive`."""
    request = struct.pack("=QQQQ", add, remove, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    system_call(
        _SYS_MOUNT_SETATTR,
        AT_FDCWD,
        target,
        flags,
        request,
        len(request),
        operation="mount_setattr",
        path=target,
    )


def clone_tree(path: Path, *, dir_fd: int = AT_FDCWD, recursive: bool = False) -> int:
    """open_tree(2): a detached copy of the mount at `path`; an empty path is `dir_fd` itself."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_NO_AUTOMOUNT | (_AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= _AT_EMPTY_PATH
    return system_call(_SYS_OPEN_TREE, dir_fd, path, flags, operation="open_tree", path=path)


def attach_tree(tree_fd: int, target: Path, *, dir_fd: int = AT_FDCWD) -> None:
    """move_mount(2): hang a tree of `clone_tree` at `target`; an empty target is `dir_fd` itself."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if target else _MOVE_MOUNT_T_EMPTY_PATH)
    system_call(_SYS_MOVE_MOUNT, tree_fd, "", dir_fd, target, flags, operation="move_mount", path=target)
