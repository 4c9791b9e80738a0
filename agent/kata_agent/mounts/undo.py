"""What undoes a mount, as data that can be written down, and the doing of it.

Owns: the inverse steps. Must not know: what they are the inverse of. Blocking: run it in a worker.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import assert_never

from kata_agent.errors import describe
from kata_agent.mounts import hugepool, place
from kata_linux import mount
from kata_linux.record import Record


class Unmount(Record):
    """Undoes a mount; with `perhaps` one that may not have come about."""

    target: str
    perhaps: bool = False


class RemoveDirectory(Record):
    """Undoes a folder that was made, if it is empty."""

    path: str


class RemoveFile(Record):
    """Undoes a file that was made."""

    path: str


class RemoveTree(Record):
    """Undoes a folder that was made, with all that was put into it."""

    path: str


class ReturnPages(Record):
    """Undoes the growth of a pool of huge pages."""

    page_size: int
    pages: int


class CloseChecked(Record):
    """Undoes a device-mapper device, which may not have come about; one still in use goes with its last user."""

    name: str


class EndMirror(Record):
    """Undoes a copy that is kept up to date, and the bind that covers one whose source has grown too large."""

    source: str
    target: str


Undo = CloseChecked | EndMirror | Unmount | RemoveDirectory | RemoveFile | RemoveTree | ReturnPages
_KINDS: dict[str, type[Undo]] = {
    kind.__name__: kind
    for kind in (CloseChecked, EndMirror, Unmount, RemoveDirectory, RemoveFile, RemoveTree, ReturnPages)
}


def undo(steps: Sequence[Undo]) -> list[str]:
    """Undo in reverse order. Goes on after a failure; the texts of all failures are the result."""
    failures = []
    for step in reversed(steps):
        try:
            _undo(step)
        except FileNotFoundError:
            pass  # somebody else removed it: that is what was wanted
        except OSError as error:
            failures.append(describe(error))
    return failures


def encode(steps: Sequence[Undo]) -> list[list[object]]:
    """Steps as lists, for a file. Pure."""
    return [[type(step).__name__, *step] for step in steps]


def decode(rows: Sequence[Sequence[object]]) -> tuple[Undo, ...]:
    """The inverse of `encode`. Pure."""
    return tuple(_KINDS[str(kind)](*fields) for kind, *fields in rows)  # type: ignore[arg-type]  # from `encode`


def _undo(step: Undo) -> None:
    match step:
        case CloseChecked(name):
            _close(name)
        case EndMirror(_, target):
            _unmount(target, perhaps=True)
            place.remove_tree(target)
        case Unmount(target, perhaps):
            _unmount(target, perhaps=perhaps)
        case RemoveDirectory(path):
            _remove_directory(path)
        case RemoveFile(path):
            os.unlink(path)
        case RemoveTree(path):
            place.remove_tree(path)
        case ReturnPages(page_size, pages):
            hugepool.give_back(page_size, pages)
        case _:
            assert_never(step)


def _remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:  # somebody else uses it by now, and it is theirs
            raise


def _close(name: str) -> None:
    from kata_linux import dm  # only guests with such disks pay for it

    try:
        dm.remove(name)
    except OSError as error:
        if error.errno != errno.ENXIO:  # there is none
            raise


def _unmount(target: str, *, perhaps: bool) -> None:
    try:
        mount.umount(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    except OSError as error:
        # EINVAL says that nothing is mounted there. A mount point that is gone is told, too, unless in doubt.
        if not perhaps or error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
