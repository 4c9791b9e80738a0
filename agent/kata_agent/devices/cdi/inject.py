"""Giving a container the CDI devices that its annotations ask for, as soon as they can be had.

Owns the wait: inotify on the folders, on what is above them until they are there, and where nodes of devices will be.
Must not know: the wire, containers. Follows: Kata's agent 3.21, "CDI"; a file that is bad, or only half written, keeps
being waited for, and is told of when the time is over.
"""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from kata_agent.devices.cdi import edit
from kata_agent.devices.cdi.folder import FOLDERS, Catalogue, Folders
from kata_agent.devices.cdi.name import Name, read_annotations
from kata_agent.errors import TimedOut
from kata_linux import inotify
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from kata_agent.devices.cdi.definition import Edits
    from kata_agent.worker import Worker

SANDBOX_TYPE = ("io.katacontainers.pkg.oci.container_type", "pod_sandbox")
_LISTED = 20
# What is in a folder has changed, or is completely written now.
_FOLDER = (
    inotify.IN_CLOSE_WRITE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVE_SELF
)


class State(Record):
    """What a look has found."""

    catalogue: Catalogue
    unresolved: tuple[Name, ...]
    edits: list[Edits]
    nodes: dict[str, edit.Node | None]
    missing: tuple[str, ...]
    """Nodes that the edits need and that are not there yet."""


def find_wanted(spec: dict[str, Any]) -> tuple[Name, ...]:
    """The devices that the specification's annotations ask for; a pod's own container has none. InvalidRequest."""
    annotations = spec.get("annotations") or {}
    key, value = SANDBOX_TYPE
    return () if annotations.get(key) == value else read_annotations(annotations)


class Cdi:
    """Injects devices; one per agent, so that files are parsed once."""

    def __init__(self, worker: Worker, timeout_s: float, folders: Sequence[str] = FOLDERS) -> None:
        self._worker = worker
        self._timeout_s = timeout_s
        self._folders = Folders(folders)

    async def inject(self, spec: dict[str, Any], wanted: tuple[Name, ...]) -> dict[str, Any]:
        """The specification with all that the devices need; waits until they are defined and their nodes are there.

        TimedOut tells what was not to be had, and what was found instead; InvalidRequest, NotSupported: the edits.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        with _Changes() as changes:
            state = await self._look(changes, wanted)
            late = False
            while state.unresolved or state.missing:
                if late:
                    raise TimedOut(describe_failure(state, self._timeout_s))
                try:
                    async with asyncio.timeout_at(deadline):
                        await changes.wait()
                except TimeoutError:
                    late = True  # the loop may have been, and the change not: a last look
                state = await self._look(changes, wanted)
        return edit.apply(spec, state.edits, state.nodes)

    async def _look(self, changes: _Changes, wanted: tuple[Name, ...]) -> State:
        """Watch first, then look: what comes after the look is told."""
        changes.watch(self._folders.paths)
        state = await self._worker.run(partial(look, self._folders, wanted))
        if state.missing:
            changes.watch(os.path.dirname(path) for path in state.missing)
            state = await self._worker.run(partial(look, self._folders, wanted))
        return state


def look(folders: Folders, wanted: tuple[Name, ...]) -> State:
    """What can be had now. Blocks."""
    catalogue = folders.scan()
    unresolved = tuple(name for name in wanted if name not in catalogue.devices)
    edits = [] if unresolved else edit.collect((name, catalogue.devices[name]) for name in wanted)
    nodes = {path: edit.observe_node(path) for path in edit.list_nodes(edits)}
    return State(catalogue, unresolved, edits, nodes, edit.list_missing(edits, nodes))


def describe_failure(state: State, timeout_s: float) -> str:
    """What was waited for, and what there is instead. Pure."""
    catalogue = state.catalogue
    parts = []
    if state.unresolved:
        parts.append(f"unresolvable: {_join(state.unresolved)}")
        parts.append(
            f"defined are {_join(sorted(map(str, catalogue.devices)))}"
            if catalogue.devices
            else "nothing is defined"
        )
    if state.missing:
        parts.append(f"device nodes that are not there: {_join(state.missing)}")
    parts.extend(f"{folder} has no CDI file" for folder in catalogue.empty)
    parts.extend(catalogue.problems[:_LISTED])
    return f"failed to inject devices after CDI timeout of {timeout_s:g} seconds: {'; '.join(parts)}"


def _join(items: Sequence[object]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(map(str, items[:_LISTED])) + more


class _Changes:
    """Tells that something has changed where it was told to watch."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = inotify.open_inotify()
        asyncio.get_running_loop().add_reader(self._fd, self._on_change)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def watch(self, paths: Iterable[str]) -> None:
        """Watch these folders; where one is not there, what is above it. Watching twice is watching once."""
        self._changed.clear()
        for path in paths:
            while (missing := self._add_nearest(path)) and os.path.exists(missing):
                pass  # it came before what is above it was watched, which did not tell

    async def wait(self) -> None:
        """Until something has changed since the last `watch`."""
        await self._changed.wait()

    def _add_nearest(self, path: str) -> str:
        """Watch it, or the nearest folder above it that is there; gives what is missing in that."""
        missing = ""
        while not self._add(path):
            missing, path = path, os.path.dirname(path)
        return missing

    def _add(self, path: str) -> bool:
        try:
            inotify.add_watch(self._fd, path, _FOLDER)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) or path == "/":
                raise
            return False
        return True

    def _on_change(self) -> None:
        inotify.read_events(self._fd)
        self._changed.set()
