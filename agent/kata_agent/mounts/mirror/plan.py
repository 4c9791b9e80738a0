"""From the source's tree and its copy's to the steps that make the copy the same. Pure.

The order is kubelet's own, so that who reads the copy never sees half of a version: new folders and files first, then
`..data` is switched, then the other links, and what is gone goes last. The version before stays until the next
look: a reader may have read `..data` just before it was switched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kata_agent.mounts.mirror.snapshot import DATA, FILE, FOLDER, LINK, Item, Snapshot, Stamp
from kata_linux.record import Record


class PutFolder(Record):
    """Make a folder, or give an existing one this mode and owner."""

    path: str
    item: Item


class PutFile(Record):
    """Copy a file; it takes its place when all of it is there."""

    path: str
    item: Item


class PutLink(Record):
    """Make a link in place of what is there, at once."""

    path: str
    item: Item


class Drop(Record):
    """Remove a file or link, or a folder with all that is in it."""

    path: str


Step = PutFolder | PutFile | PutLink | Drop
_STEPS: dict[str, type[PutFolder | PutFile | PutLink]] = {
    FOLDER: PutFolder,
    FILE: PutFile,
    LINK: PutLink,
}


def plan_steps(source: Snapshot, copy: Snapshot, known: Mapping[str, Stamp]) -> tuple[Step, ...]:
    """Steps in their order. `known` are the stamps that the source had when it was copied last, if it was."""
    changed = [
        _STEPS[item.kind](path, item)
        for path, item in source.items()
        if is_changed(item, copy.get(path), known.get(path))
    ]
    gone = [path for path in copy if path not in source and _parent(path) in source]
    if leaves_old(changed) and DATA in copy:
        gone = [path for path in gone if path != copy[DATA].target]
    puts = sorted(changed, key=lambda step: (_turn(step), step.path.count("/"), step.path))
    drops = sorted(gone, key=lambda path: (path.startswith(".."), path))
    return (*puts, *(Drop(path) for path in drops))


def leaves_old(steps: Sequence[Step]) -> bool:
    """Whether `..data` is switched, so that the version before has to go at the next look."""
    return any(isinstance(step, PutLink) and step.path == DATA for step in steps)


def is_changed(item: Item, copied: Item | None, known: Stamp | None) -> bool:
    """Whether the copy is not what the source is."""
    if copied is None or (copied.kind, copied.target) != (item.kind, item.target):
        return True
    if item.kind == LINK:
        return False
    if (copied.mode, copied.uid, copied.gid) != (item.mode, item.uid, item.gid):
        return True
    if item.kind == FOLDER:
        return False
    same_content = (copied.size, copied.mtime_ns) == (item.size, item.mtime_ns)
    return not same_content or (known is not None and known != item.stamp)


def _turn(step: Step) -> int:
    if isinstance(step, PutLink):
        return 2 if step.path.startswith("..") else 3
    return 0 if isinstance(step, PutFolder) else 1


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
