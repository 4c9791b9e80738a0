"""Storages on devices that the host may have plugged in just now: each is waited for, then mounted.

Owns: the step from an address to a node, before anything is mounted. Must not know: mounting. All devices of a request
are waited for at once, so a container with many disks waits for the slowest, not for the sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kata_agent import errors
from kata_agent.mounts import timing
from kata_agent.mounts.storage import block
from kata_agent.mounts.storage.driver import find_driver
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import StorageRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.devices.book import Book
    from kata_agent.devices.match import Matcher


class ArrivingStorages(Storages):
    """`Storages` whose sources may be addresses."""

    def __init__(self, *parts: object, find_book: Callable[[], Book], **more: object) -> None:
        """`find_book` gives who waits; a guest without disks never asks for it."""
        super().__init__(*parts, **more)  # type: ignore[arg-type]  # the base's own
        self._find_book = find_book
        self._used = False

    async def mount(self, user: str, storages: Sequence[object]) -> tuple[str, ...]:
        """As the base's, with every device there."""
        requests = [storage for storage in storages if isinstance(storage, StorageRequest)]
        for request in requests:
            find_driver(request.driver)  # what is wrong with a driver is told before anything is waited for
        matchers = [_find_matcher(request) for request in requests]
        if not any(matchers):
            return await super().mount(user, storages)
        self._used = True
        try:
            located = await self._locate(user, requests, matchers)
            names = await super().mount(user, located)
        except BaseException:
            self._find_book().release(user)
            raise
        for request, matcher in zip(requests, matchers, strict=True):
            if matcher is not None:
                took_ns = timing.take(request.mount_point)
                self._find_book().note_mounted(request.driver, matcher.text, took_ns)
        return names

    async def release(self, user: str, names: tuple[str, ...]) -> None:
        """As the base's."""
        await super().release(user, names)
        if names and self._used:
            self._find_book().release(user)

    async def _locate(
        self, user: str, requests: list[StorageRequest], matchers: list[Matcher | None]
    ) -> list[StorageRequest]:
        """The storages with nodes for addresses. Raises what the first device that failed raised."""
        located = list(requests)

        async def wait(index: int, matcher: Matcher) -> None:
            arrival = await self._find_book().wait(requests[index].driver, matcher, user)
            located[index] = requests[index]._replace(source=arrival.found.node)

        try:
            async with asyncio.TaskGroup() as group:
                for index, matcher in enumerate(matchers):
                    if matcher is not None:
                        group.create_task(wait(index, matcher))
        except BaseExceptionGroup as failed:
            raise errors.unwrap(failed.exceptions[0]) from None
        return located


def _find_matcher(request: StorageRequest) -> Matcher | None:
    return block.find_matcher(request.driver, request.source) if request.driver in block.DRIVERS else None
