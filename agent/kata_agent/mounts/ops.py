"""Operations on the mount tree, as data. Pure.

A plan is a tuple of these; `apply` does them in order and can undo each. `describe` is what errors and logs say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_linux.verity import Verity


class MakeDirectory(Record):
    """A directory and the parents that are missing, each 0755. A `lasting` one is part of somebody's data: it stays."""

    path: str
    lasting: bool = False


class MakeVolume(Record):
    """A directory like `MakeDirectory`'s that holds data of its own: undone with all that was put into it."""

    path: str


class MakeFile(Record):
    """An empty file to mount another file on, with the parents that are missing."""

    path: str


class MountFilesystem(Record):
    """mount(2) of a new file system."""

    source: str
    target: str
    fstype: str
    flags: int = 0
    data: str = ""


class Remount(Record):
    """Change these options of the file system that is mounted at `target`, and no others."""

    target: str
    flags: int = 0
    data: str = ""


class BindMount(Record):
    """Show `source` at `target` too."""

    source: str
    target: str
    recursive: bool = False


class SetFlags(Record):
    """Flags of one mount, or of all below it too: what `bind` itself ignores."""

    target: str
    flags: int
    recursive: bool = False


class SetPropagation(Record):
    """Whether mounts below `target` are seen elsewhere."""

    target: str
    propagation: int
    recursive: bool = False


class ChangeGroup(Record):
    """Give everything below `path` to a group, unless its root is right already and that is enough."""

    path: str
    group: int
    read_only: bool = False
    on_mismatch_only: bool = False


class SetAccess(Record):
    """Group (-1: as it is) and mode (None: as it is) of one file or folder; the bits of `add` come on top."""

    path: str
    group: int = -1
    mode: int | None = None
    add: int = 0


class CheckedDevice(Record):
    """A device over the disk `source` that checks each block it reads (dm-verity)."""

    name: str
    source: str
    verity: Verity

    @property
    def node(self) -> str:
        """Where it is while it is there."""
        return f"/dev/mapper/{self.name}"


class Mirror(Record):
    """A copy of a small tree, which is kept up to date afterwards."""

    source: str
    target: str


class TakeRoot(Record):
    """A root that somebody else has made or mounted at `path`, and that is ours from now on."""

    path: str


class CopyProgram(Record):
    """A file, by its path below `source`, to the same place below `target`."""

    source: str
    target: str
    path: str


class ReservePages(Record):
    """More huge pages in the pool of this page size, in bytes."""

    page_size: int
    pages: int


MountOp = MountFilesystem | Remount | BindMount | SetFlags | SetPropagation | CheckedDevice
OtherOp = (
    MakeDirectory
    | MakeVolume
    | MakeFile
    | ChangeGroup
    | SetAccess
    | Mirror
    | TakeRoot
    | CopyProgram
    | ReservePages
)
Op = MountOp | OtherOp


def describe(op: Op) -> str:
    """The operation in words."""
    match op:
        case MountFilesystem(source, target, fstype, flags, data):
            return f"mount {fstype} {source} on {target} (flags {flags:#x}, data {data!r})"
        case Remount(target, flags, data):
            return f"remount {target} (flags {flags:#x}, data {data!r})"
        case BindMount(source, target, recursive):
            return f"bind {source} on {target}{' with all below it' if recursive else ''}"
        case SetFlags(target, flags, recursive):
            return f"set flags {flags:#x} of {target}{' and all below it' if recursive else ''}"
        case SetPropagation(target, propagation, recursive):
            return f"set propagation {propagation:#x} of {target}{' and all below it' if recursive else ''}"
        case CheckedDevice(name, source, verity):
            return f"check {source} by verity as {name} (root hash {verity.root_hash})"
        case _:
            return _describe_other(op)


def _describe_other(op: OtherOp) -> str:
    match op:
        case MakeDirectory(path):
            return f"make directory {path}"
        case MakeVolume(path):
            return f"make volume {path}"
        case MakeFile(path):
            return f"make file {path}"
        case ChangeGroup(path, group):
            return f"give {path} to group {group}"
        case SetAccess(path, group, mode, add):
            access = f"group {group}, mode {'kept' if mode is None else oct(mode)} plus {add:o}"
            return f"set access of {path} ({access})"
        case Mirror(source, target):
            return f"mirror {source} at {target}"
        case TakeRoot(path):
            return f"take over {path}"
        case CopyProgram(source, target, path):
            return f"copy {path} from {source} to {target}"
        case ReservePages(page_size, pages):
            return f"reserve {pages} huge pages of {page_size} bytes"
        case _:
            assert_never(op)
