"""The face of this package: what the handlers call. One change at a time, each observe, plan, apply.

Owns: the order of changes, the socket of each call. Must not know: the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.network.apply import apply, settle, telling
from kata_agent.network.observe import observe_interface
from kata_agent.network.ops import describe as describe_operation
from kata_agent.network.plan import plan_interface, plan_neighbours, plan_routes
from kata_agent.network.value import AF_INET, AF_INET6
from kata_linux.record import Record
from kata_linux.rtmessage import Address, Link, Route
from kata_linux.rtnetlink import RouteNetlink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kata_agent.log import Log
    from kata_agent.network.ops import Operation
    from kata_agent.network.wanted import WantedInterface, WantedNeighbour, WantedRoute
    from kata_agent.worker import Worker

# The kernel answers within microseconds, but a driver's reset may hold its lock for seconds.
ANSWER_TIMEOUT_S = 10.0


class Interfaces(Record):
    """Every link and every address."""

    links: list[Link]
    addresses: list[Address]


class Routes(Record):
    """Every route of the main table, IPv4 first, and the names of the links they use."""

    routes: list[Route]
    names: dict[int, str]


class Network:
    """One per agent; it keeps nothing between calls, so the kernel's state is the only one."""

    def __init__(
        self,
        worker: Worker,
        log: Log,
        wait_for_device: Callable[[str], Awaitable[object]],
        *,
        sysfs: str = "/sys",
        procfs: str = "/proc",
    ) -> None:
        """`wait_for_device` returns when the device at a PCI path has an interface, or raises `AgentError`."""
        self._worker = worker
        self._log = log
        self._wait_for_device = wait_for_device
        self._sysfs = sysfs
        self._procfs = procfs
        self._turn = asyncio.Lock()

    async def update_interface(self, wanted: WantedInterface) -> None:
        """Make an interface what is wanted. Raises `AgentError` with the request that failed; then nothing changed."""
        if wanted.device_path:  # the host may have plugged it in just now; other changes go on meanwhile
            with telling("update interface"):
                await self._wait_for_device(wanted.device_path)
        async with self._turn:
            await self._worker.run(partial(self._update_interface, wanted))

    async def update_routes(self, wanted: Sequence[WantedRoute]) -> Routes:
        """Add what is missing; gives every route there is afterwards."""
        async with self._turn:
            return await self._worker.run(partial(self._update_routes, wanted))

    async def add_neighbours(self, wanted: Sequence[WantedNeighbour]) -> None:
        """Add or change entries of the neighbour table."""
        async with self._turn:
            await self._worker.run(partial(self._add_neighbours, wanted))

    async def list_interfaces(self) -> Interfaces:
        """Every interface."""
        return await self._worker.run(_list_interfaces)

    async def list_routes(self) -> Routes:
        """Every route of the main table."""
        return await self._worker.run(_list_routes)

    def _update_interface(self, wanted: WantedInterface) -> None:
        with telling("update interface"), RouteNetlink(ANSWER_TIMEOUT_S) as netlink:
            settle(partial(self._change_interface, wanted, netlink))

    def _change_interface(self, wanted: WantedInterface, netlink: RouteNetlink) -> None:
        seen = observe_interface(netlink, self._sysfs, self._procfs, wanted.device_path)
        self._apply(plan_interface(wanted, seen), netlink)

    def _update_routes(self, wanted: Sequence[WantedRoute]) -> Routes:
        with telling("update routes"), RouteNetlink(ANSWER_TIMEOUT_S) as netlink:
            before = _read_routes(netlink)
            self._apply(plan_routes(wanted, netlink.links(), before), netlink)
            return Routes(_read_routes(netlink), _read_names(netlink))

    def _add_neighbours(self, wanted: Sequence[WantedNeighbour]) -> None:
        with telling("add arp neighbors"), RouteNetlink(ANSWER_TIMEOUT_S) as netlink:
            self._apply(plan_neighbours(wanted, netlink.links(), netlink.neighbours()), netlink)

    def _apply(self, plan: tuple[Operation, ...], netlink: RouteNetlink) -> None:
        apply(plan, netlink)
        for operation in plan:
            self._log.debug("network", describe_operation(operation))


def _list_interfaces() -> Interfaces:
    with telling("list interfaces"), RouteNetlink(ANSWER_TIMEOUT_S) as netlink:
        return Interfaces(netlink.links(), netlink.addresses())


def _list_routes() -> Routes:
    with telling("list routes"), RouteNetlink(ANSWER_TIMEOUT_S) as netlink:
        return Routes(_read_routes(netlink), _read_names(netlink))


def _read_routes(netlink: RouteNetlink) -> list[Route]:
    return [route for family in (AF_INET, AF_INET6) for route in netlink.routes(family)]


def _read_names(netlink: RouteNetlink) -> dict[int, str]:
    return {link.number: link.name for link in netlink.links()}
