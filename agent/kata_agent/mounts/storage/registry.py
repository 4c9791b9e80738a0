"""Who uses which mount point: each storage is mounted once and unmounted after its last user.

Owns: the users of every mount point and the steps that undo its mount. Must not know: the wire, drivers' ways.
Follows: Kata's agent 3.21, "Bookkeeping, sharing, cleanup", with its races left out: a second user of a mount point
waits for the first one's mount and shares its result; a mount point cannot stand for two different storages. Volumes
of the pod (`driver.LASTING`) stay after their last user, once a container has been made with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.errors import AlreadyExists, NotSupported, describe
from kata_agent.mounts import ops, place
from kata_agent.mounts.apply import RollbackError, apply_plan
from kata_agent.mounts.storage.driver import GUEST_PULL, LASTING, find_driver
from kata_agent.mounts.storage.journal import Entry, Journal
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.mounts.undo import CloseChecked, EndMirror, ReturnPages, Undo, Unmount, undo

if TYPE_CHECKING:
    from kata_agent.log import Log
    from kata_agent.mounts.mirror.watcher import Watcher
    from kata_agent.mounts.storage.guest_pull import Puller
    from kata_agent.worker import Worker


class Mounted:
    """One mount point that somebody uses. `steps` resolves when it is mounted; `request` is None after a restart."""

    def __init__(self, request: StorageRequest | None, steps: tuple[Undo, ...] | None = None) -> None:
        self.request = request
        self.users: set[str] = set()
        self.kept = False
        self.steps: asyncio.Future[tuple[Undo, ...]] = asyncio.get_running_loop().create_future()
        if steps is not None:
            self.steps.set_result(steps)


class Storages:
    """The storages of the sandbox and of its containers; users are named by their ids."""

    def __init__(
        self,
        worker: Worker,
        log: Log,
        journal: Journal | None = None,
        make_watcher: Callable[[], Watcher] | None = None,
        find_puller: Callable[[], Puller] | None = None,
    ) -> None:
        """`make_watcher` gives what keeps mirrors up to date; without it they are copied once. `find_puller` gives who
        has images pulled; without one they are refused."""
        self._worker = worker
        self._log = log
        self._journal = journal or Journal(None)
        self._make_watcher = make_watcher
        self._watcher: Watcher | None = None
        self._find_puller = find_puller
        self._mounted: dict[str, Mounted] = {}
        self._leaving: dict[str, asyncio.Future[None]] = {}

    async def mount(self, user: str, storages: Sequence[object]) -> tuple[str, ...]:
        """Mount `StorageRequest`s in order, all or none. The result names them for `release`."""
        names: list[str] = []
        try:
            for storage in _expand(user, storages):
                name = await self._use(user, storage._replace(user=user))
                names.append(name)  # one by one: what came before a failure is released
        except BaseException:
            await self.release(user, tuple(names))
            raise
        return tuple(names)

    def keep(self, user: str) -> None:
        """`user` has been made: the pod's volumes that it uses stay when it goes, until `release_kept`."""
        for name, entry in self._mounted.items():
            if user in entry.users and entry.request and entry.request.driver in LASTING and not entry.kept:
                entry.kept = True
                self._journal.write(Entry(name, entry.steps.result(), kept=True))

    async def release(self, user: str, names: tuple[str, ...]) -> None:
        """`user` needs these no more; in reverse order, those that nobody else uses are unmounted.

        Failures are logged: the mount is detached at the latest with the guest's end.
        """
        for name in reversed(names):
            entry = self._mounted.get(name)
            if entry is not None and user in entry.users:
                entry.users.discard(user)
                await self._leave(name, entry)

    async def release_kept(self) -> None:
        """The pod ends: its volumes go, the latest first."""
        for name, entry in reversed(tuple(self._mounted.items())):
            if entry.kept:
                entry.kept = False
                await self._leave(name, entry)

    def adopt(self, user: str, names: tuple[str, ...]) -> None:
        """After a restart of the agent: `user` had mounted these."""
        self._load()
        for name in names:
            entry = self._mounted.get(name)
            if entry is None:
                entry = self._mounted[name] = Mounted(None, (Unmount(name),))
            entry.users.add(user)

    async def sweep(self) -> None:
        """After the last `adopt`: undo what an agent that was killed had mounted for nobody."""
        self._load()
        for name, entry in reversed(tuple(self._mounted.items())):
            await self._leave(name, entry)

    def users(self, name: str) -> frozenset[str]:
        """Who uses the mount point."""
        entry = self._mounted.get(name)
        return frozenset(entry.users) if entry else frozenset()

    def _load(self) -> None:
        for recorded in self._journal.take():
            entry = self._mounted[recorded.name] = Mounted(None, recorded.steps)
            entry.kept = recorded.kept
            self._watch(recorded.steps)

    async def _use(self, user: str, storage: StorageRequest) -> str:
        find_driver(storage.driver)  # a driver that is not there is told before anything else that is wrong
        name = storage.mount_point.rstrip("/")
        while name in self._leaving:
            await asyncio.shield(self._leaving[name])
        entry = self._mounted.get(name)
        if entry is None:
            await self._mount(user, name, storage)
            return name
        if entry.request is not None and _differ(entry.request, storage):
            raise AlreadyExists(f"mount point {name}: already used for source {entry.request.source!r}")
        entry.users.add(user)
        try:
            await asyncio.shield(entry.steps)
        except BaseException:
            entry.users.discard(user)
            raise
        return name

    async def _mount(self, user: str, name: str, storage: StorageRequest) -> None:
        entry = self._mounted[name] = Mounted(storage)
        entry.users.add(user)
        try:
            if storage.driver == GUEST_PULL:
                await self._pull(storage, name)
            steps = await self._worker.run(partial(_mount_now, storage, name, self._journal))
        except BaseException as error:
            del self._mounted[name]
            # Those who wait for this mount fail as it did; if there are none nobody may be told.
            entry.steps.set_exception(_for_others(error))
            entry.steps.exception()
            raise
        entry.steps.set_result(steps)
        self._watch(steps)

    async def _pull(self, storage: StorageRequest, name: str) -> None:
        """Have the image of the storage pulled; what became of it when that failed is undone."""
        from kata_agent.mounts.storage import guest_pull

        pull = guest_pull.parse(storage)
        if pull.is_pause:
            return
        if self._find_puller is None:
            raise NotSupported(f"pull image {pull.reference}: nobody here pulls images")
        steps = guest_pull.steps_of(pull)
        await self._worker.run(partial(_prepare_pull, pull.bundle, Entry(name, steps), self._journal))
        try:
            await self._find_puller().pull_image(pull.reference, pull.bundle)
        except BaseException:
            for failure in await self._worker.run(partial(_undo_now, steps, name, self._journal)):
                self._log.warning("storage", "unmount failed", mount_point=name, error=failure)
            raise

    def _watch(self, steps: tuple[Undo, ...]) -> None:
        """Keep a mirror up to date from now on."""
        for step in steps:
            if isinstance(step, EndMirror) and self._make_watcher is not None:
                if self._watcher is None:
                    self._watcher = self._make_watcher()
                self._watcher.start(step.source, step.target)

    async def _leave(self, name: str, entry: Mounted) -> None:
        """Unmount what has no users any more."""
        if entry.users or entry.kept or self._mounted.get(name) is not entry:
            return
        del self._mounted[name]
        gone = self._leaving[name] = asyncio.get_running_loop().create_future()
        steps = entry.steps.result()
        try:
            for step in steps:
                if isinstance(step, EndMirror) and self._watcher is not None:
                    await self._watcher.stop(step.target)
            failures = await self._worker.run(partial(_undo_now, steps, name, self._journal))
        finally:
            del self._leaving[name]
            gone.set_result(None)
        for failure in failures:
            self._log.warning("storage", "unmount failed", mount_point=name, error=failure)


def _mount_now(storage: StorageRequest, name: str, journal: Journal) -> tuple[Undo, ...]:
    plan = find_driver(storage.driver)(storage)
    if any(isinstance(op, (ops.MountFilesystem, ops.BindMount)) for op in plan):
        journal.intend(name)
    for op in plan:
        if isinstance(op, ops.CheckedDevice):
            journal.write(Entry(name, (CloseChecked(op.name), Unmount(name, perhaps=True))))
        if isinstance(op, ops.Mirror):
            journal.write(Entry(name, (EndMirror(op.source, op.target),)))
    steps: tuple[Undo, ...] = ()
    try:
        steps = apply_plan(plan)
        journal.write(Entry(name, steps))
    except BaseException as error:
        if leftovers := undo(steps):
            raise RollbackError(error, leftovers) from error
        journal.remove(name)
        raise
    return steps


def _prepare_pull(bundle: str, entry: Entry, journal: Journal) -> None:
    place.make_directories(bundle)
    journal.write(entry)


def _expand(user: str, storages: Sequence[object]) -> Iterable[StorageRequest]:
    """The storages, with those that some of them need first."""
    requests = [storage for storage in storages if isinstance(storage, StorageRequest)]
    assert len(requests) == len(storages)  # noqa: S101 - the registry of containers is untyped here
    if any(word.startswith("X-kata.multi-layer") for storage in requests for word in storage.options):
        from kata_agent.mounts.storage import layers

        requests = layers.fold(user, requests)
    if all(storage.driver != "watchable-bind" for storage in requests):
        return requests
    from kata_agent.mounts.storage import watchable

    return watchable.with_roots(requests)


def _undo_now(steps: tuple[Undo, ...], name: str, journal: Journal) -> list[str]:
    if any(isinstance(step, ReturnPages) for step in steps):
        # An agent killed in between would give them back again; better lose them until the guest ends.
        journal.write(Entry(name, tuple(step for step in steps if not isinstance(step, ReturnPages))))
    failures = undo(steps)
    journal.remove(name)
    return failures


def _differ(one: StorageRequest, other: StorageRequest) -> bool:
    return (one.driver, one.source, one.fstype) != (other.driver, other.source, other.fstype)


def _for_others(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return AlreadyExists(f"the mount was given up: {describe(error)}")
