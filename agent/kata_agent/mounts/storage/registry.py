"""Who uses which mount point: each storage is mounted once and unmounted after its last user.

Owns: the users of every mount point and the steps that undo its mount. Must not know: the wire, drivers' ways.
Follows: Kata's agent 3.21, "Bookkeeping, sharing, cleanup", with its races left out: a second user of a mount point
waits for the first one's mount and shares its result; a mount point cannot stand for two different storages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.errors import AlreadyExists, describe
from kata_agent.mounts.apply import Undo, Unmount, apply_plan, undo
from kata_agent.mounts.storage.driver import find_driver
from kata_agent.mounts.storage.request import StorageRequest

if TYPE_CHECKING:
    from kata_agent.log import Log
    from kata_agent.worker import Worker


class Mounted:
    """One mount point that somebody uses. `steps` resolves when it is mounted; `request` is None after a restart."""

    def __init__(self, request: StorageRequest | None) -> None:
        self.request = request
        self.users: set[str] = set()
        self.steps: asyncio.Future[tuple[Undo, ...]] = asyncio.get_running_loop().create_future()


class Storages:
    """The storages of the sandbox and of its containers; users are named by their ids."""

    def __init__(self, worker: Worker, log: Log) -> None:
        self._worker = worker
        self._log = log
        self._mounted: dict[str, Mounted] = {}
        self._leaving: dict[str, asyncio.Future[None]] = {}

    async def mount(self, user: str, storages: Sequence[object]) -> tuple[str, ...]:
        """Mount `StorageRequest`s in order, all or none. The result names them for `release`."""
        names: list[str] = []
        try:
            for storage in storages:
                assert isinstance(storage, StorageRequest)  # noqa: S101 - the registry of containers is untyped here
                names.append(await self._use(user, storage))
        except BaseException:
            await self.release(user, tuple(names))
            raise
        return tuple(names)

    async def release(self, user: str, names: tuple[str, ...]) -> None:
        """`user` needs these no more; in reverse order, those that nobody else uses are unmounted.

        Failures are logged: the mount is detached at the latest with the guest's end.
        """
        for name in reversed(names):
            entry = self._mounted.get(name)
            if entry is None or user not in entry.users:
                continue
            entry.users.discard(user)
            if entry.users:
                continue
            del self._mounted[name]
            await self._unmount(name, entry)

    def adopt(self, user: str, names: tuple[str, ...]) -> None:
        """After a restart of the agent: `user` had mounted these."""
        for name in names:
            entry = self._mounted.get(name)
            if entry is None:
                entry = self._mounted[name] = Mounted(None)
                entry.steps.set_result((Unmount(name),))
            entry.users.add(user)

    def users(self, name: str) -> frozenset[str]:
        """Who uses the mount point."""
        entry = self._mounted.get(name)
        return frozenset(entry.users) if entry else frozenset()

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
            steps = await self._worker.run(partial(_mount_now, storage))
        except BaseException as error:
            del self._mounted[name]
            # Those who wait for this mount fail as it did; if there are none nobody may be told.
            entry.steps.set_exception(_for_others(error))
            entry.steps.exception()
            raise
        entry.steps.set_result(steps)

    async def _unmount(self, name: str, entry: Mounted) -> None:
        gone = self._leaving[name] = asyncio.get_running_loop().create_future()
        try:
            failures = await self._worker.run(partial(undo, entry.steps.result()))
        finally:
            del self._leaving[name]
            gone.set_result(None)
        for failure in failures:
            self._log.warning("storage", "unmount failed", mount_point=name, error=failure)


def _mount_now(storage: StorageRequest) -> tuple[Undo, ...]:
    return apply_plan(find_driver(storage.driver)(storage))


def _differ(one: StorageRequest, other: StorageRequest) -> bool:
    return (one.driver, one.source, one.fstype) != (other.driver, other.source, other.fstype)


def _for_others(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return AlreadyExists(f"the mount was given up: {describe(error)}")
