"""From what is there and what is wanted to the requests that make the difference. Pure.

Follows: Kata's agent 3.21, UpdateInterface, UpdateRoutes and AddARPNeighbors: nothing that is there already is done
again, addresses and routes that no request names stay. Unlike Kata's agent an interface is not set down for a change
that the kernel can make while it is up, because that would cost its routes.
"""

from __future__ import annotations

from collections.abc import Sequence

from kata_agent.errors import NotFound
from kata_agent.network.ops import (
    IFF_NOARP,
    IFF_UP,
    Operation,
    PutAddress,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Rename,
    SetFlags,
    SetMtu,
)
from kata_agent.network.value import AF_INET, AF_INET6, format_link_address
from kata_agent.network.wanted import (
    NAME_LIMIT_BYTES,
    WantedAddress,
    WantedInterface,
    WantedNeighbour,
    WantedRoute,
)
from kata_linux.record import Record
from kata_linux.rtmessage import IFA_F_NODAD, Address, Link, Neighbour, Route

# Of a route's flags those that were asked for; the others tell its state.
_ASKED_FLAGS = 0x2 | 0x4  # RTNH_F_PERVASIVE, RTNH_F_ONLINK
_METRIC_V6 = 1024  # what the kernel gives an IPv6 route that asks for none
_RTN_UNICAST = 1


class Observation(Record):
    """What matters of the network before an interface is changed."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    ipv6: bool = True
    """Whether IPv6 addresses can be given; if not, they are left out."""
    live_rename: bool = True
    """Whether the kernel renames an interface that is up (Linux 6.2)."""
    at_device_path: frozenset[str] = frozenset()
    """Names of the interfaces at the PCI path that the request names."""


def plan_interface(wanted: WantedInterface, seen: Observation) -> tuple[Operation, ...]:
    """Name, flags, MTU and addresses of one interface. Raises `NotFound`."""
    link = find_link(wanted, seen)
    name = wanted.name or link.name
    plan: list[Operation] = []
    down = name != link.name and bool(link.flags & IFF_UP) and not seen.live_rename
    if down:
        plan.append(SetFlags(link.number, link.name, 0, IFF_UP, IFF_UP))
    plan += _plan_name(link, name, seen)
    if wanted.mtu not in (0, link.mtu):
        plan.append(SetMtu(link.number, name, wanted.mtu, link.mtu))
    before = link.flags & (IFF_UP | IFF_NOARP) & ~(IFF_UP if down else 0)
    flags = IFF_UP | (IFF_NOARP if wanted.no_arp else 0)
    if before != flags:
        plan.append(SetFlags(link.number, name, flags, before ^ flags, before))
    # IPv6 addresses do not outlive setting the interface down.
    there = [
        item for item in seen.addresses if item.link == link.number and not (down and item.family == AF_INET6)
    ]
    plan += _plan_addresses(link.number, name, wanted.addresses, there, ipv6=seen.ipv6)
    return tuple(plan)


def find_link(wanted: WantedInterface, seen: Observation) -> Link:
    """The interface that is meant. Raises `NotFound` with what was looked for."""
    found = [link for link in seen.links if not wanted.mac or link.address == wanted.mac]
    if wanted.device_path:
        found = [link for link in found if link.name in seen.at_device_path]
    if found:
        # several share an address: a bridge and its port, say; then the name decides, else the oldest
        return next((link for link in found if link.name == wanted.name), found[0])
    if not wanted.device_path:
        raise NotFound(f"Link not found (Address: {format_link_address(wanted.mac)})")
    there = ", ".join(
        f"{link.name} with address {format_link_address(link.address)}"
        for link in seen.links
        if link.name in seen.at_device_path
    )
    raise NotFound(
        f"Link not found (Address: {format_link_address(wanted.mac)}) at PCI path {wanted.device_path}:"
        f" there is {there or 'no network interface'}"
    )


def _plan_name(link: Link, name: str, seen: Observation) -> list[Operation]:
    """The rename, with whoever has that name given this link's former one."""
    if name == link.name:
        return []
    rename = Rename(link.number, link.name, name)
    other = next((item for item in seen.links if item.name == name), None)
    if other is None:
        return [rename]
    aside = _find_free_name(name, {item.name for item in seen.links})
    plan: list[Operation] = []
    up = bool(other.flags & IFF_UP)
    if up and not seen.live_rename:
        plan.append(SetFlags(other.number, name, 0, IFF_UP, IFF_UP))
        up = False
    plan += [Rename(other.number, name, aside), rename, Rename(other.number, aside, link.name)]
    if not up:
        plan.append(SetFlags(other.number, link.name, IFF_UP, IFF_UP, 0))
    return plan


def _find_free_name(name: str, taken: set[str]) -> str:
    """`NAME_temp`, cut so that the kernel takes it."""
    number = 0
    while True:
        tail = f"_temp{number or ''}"
        aside = name.encode()[: NAME_LIMIT_BYTES - len(tail)].decode(errors="ignore") + tail
        if aside not in taken:
            return aside
        number += 1


def _plan_addresses(
    link: int, name: str, wanted: Sequence[WantedAddress], there: list[Address], *, ipv6: bool
) -> list[Operation]:
    plan: list[Operation] = []
    have = {(item.local or item.peer): item for item in there}
    for item in wanted:
        address = make_address(link, item)
        if address.family == AF_INET6 and not ipv6:
            continue
        old = have.get(item.address)
        if old is not None and old.prefix == item.prefix:
            continue
        if old is not None:
            plan.append(RemoveAddress(name, old))
        plan.append(PutAddress(name, address))
        have[item.address] = address
    return plan


def make_address(link: int, wanted: WantedAddress) -> Address:
    """The record to send: IPv4 with its broadcast address, IPv6 without a wait for duplicates of it."""
    if len(wanted.address) == 16:
        return Address(link, AF_INET6, wanted.prefix, wanted.address, wanted.address, IFA_F_NODAD)
    number = int.from_bytes(wanted.address, "big") | (1 << (32 - wanted.prefix)) - 1
    return Address(link, AF_INET, wanted.prefix, wanted.address, wanted.address, 0, number.to_bytes(4, "big"))


def plan_routes(
    wanted: Sequence[WantedRoute], links: Sequence[Link], routes: Sequence[Route]
) -> tuple[Operation, ...]:
    """Routes without a gateway first, so that gateways can be reached. Raises `NotFound` for a missing interface."""
    numbers = {link.name: link.number for link in links}
    for each in wanted:
        check_device(each.device, numbers)
    plan: list[Operation] = []
    there: dict[tuple[int, bytes, int], list[Route]] = {}  # by network, as hosts may send thousands
    for old in routes:
        there.setdefault((old.family, old.destination, old.prefix), []).append(old)
    for each in sorted(wanted, key=lambda item: bool(item.gateway)):
        route = make_route(each, numbers[each.device])
        have = there.setdefault((route.family, route.destination, route.prefix), [])
        if any(is_same_route(old, route) for old in have):
            continue
        before = next((old for old in have if is_replaced(old, route)), None)
        if before is not None:
            have.remove(before)
        have.append(route)
        plan.append(PutRoute(each.device, route, before, each.text))
    return tuple(plan)


def check_device(name: str, known: dict[str, int]) -> None:
    """Raise `NotFound` unless an interface has this name."""
    if name not in known:
        raise NotFound(f"Link not found (Name: {name})")


def make_route(wanted: WantedRoute, link: int) -> Route:
    """The record to send."""
    return Route(
        wanted.family,
        wanted.destination,
        wanted.prefix,
        link,
        wanted.gateway,
        wanted.scope,
        wanted.source,
        wanted.source_prefix,
        wanted.preferred_source,
        wanted.mtu,
        flags=wanted.flags,
    )


def is_same_route(old: Route, new: Route) -> bool:
    """Whether `old` does already what `new` asks for. The kernel keeps no scope of IPv6 routes."""

    def essence(route: Route) -> tuple[object, ...]:
        scope = route.scope if route.family == AF_INET else 0
        network = (route.family, route.destination, route.prefix, route.source, route.source_prefix, scope)
        return (*network, route.link, route.gateway, route.mtu, route.flags & _ASKED_FLAGS, route.kind)

    if new.preferred_source and old.preferred_source != new.preferred_source:
        return False
    return essence(old) == essence(new)


def is_replaced(old: Route, new: Route) -> bool:
    """Whether the kernel puts `new` in the place of `old`: same network, same metric."""
    metric = new.metric or (_METRIC_V6 if new.family == AF_INET6 else 0)
    old_metric = old.metric or (_METRIC_V6 if old.family == AF_INET6 else 0)
    same = old.family == new.family and old.destination == new.destination and old.prefix == new.prefix
    return same and old_metric == metric and old.kind == _RTN_UNICAST


def plan_neighbours(
    wanted: Sequence[WantedNeighbour], links: Sequence[Link], neighbours: Sequence[Neighbour]
) -> tuple[Operation, ...]:
    """Neighbours in the given order. Raises `NotFound` for a missing interface."""
    numbers = {link.name: link.number for link in links}
    for each in wanted:
        check_device(each.device, numbers)
    plan: list[Operation] = []
    have = {(item.link, item.destination): item for item in neighbours}
    for each in wanted:
        family = AF_INET if len(each.destination) == 4 else AF_INET6
        link = numbers[each.device]
        new = Neighbour(link, family, each.destination, each.link_address, each.state, each.flags)
        before = have.get((link, each.destination))
        if before != new:
            plan.append(PutNeighbour(each.device, new, before))
            have[link, each.destination] = new
    return tuple(plan)
