"""Changes of the network, as data. Pure.

Each is one request to the kernel and knows what was there before, so that `invert` can tell how to take it back.
"""

from __future__ import annotations

from typing import assert_never

from kata_agent.network.value import AF_INET6, format_ip, format_link_address
from kata_linux.record import Record
from kata_linux.rtmessage import Address, Neighbour, Route

IFF_UP = 0x1
IFF_NOARP = 0x80
_FLAGS = {(IFF_UP, IFF_UP): "up", (IFF_UP, 0): "down", (IFF_NOARP, IFF_NOARP): "noarp", (IFF_NOARP, 0): "arp"}


class SetFlags(Record):
    """Set the flags of `mask` to those of `flags`."""

    link: int
    name: str
    flags: int
    mask: int
    before: int


class Rename(Record):
    """Give a link another name."""

    link: int
    name: str
    to: str


class SetMtu(Record):
    """Set a link's MTU, in bytes."""

    link: int
    name: str
    mtu: int
    before: int


class PutAddress(Record):
    """Add an address to a link."""

    name: str
    address: Address


class RemoveAddress(Record):
    """Remove an address from a link."""

    name: str
    address: Address


class PutRoute(Record):
    """Add a route, or put it in the place of `before`. `text` is source, destination and gateway as they were sent."""

    name: str
    route: Route
    before: Route | None = None
    text: tuple[str, str, str] = ("", "", "")


class RemoveRoute(Record):
    """Remove a route."""

    name: str
    route: Route


class PutNeighbour(Record):
    """Add a neighbour, or change it from `before`."""

    name: str
    neighbour: Neighbour
    before: Neighbour | None = None


class RemoveNeighbour(Record):
    """Remove a neighbour."""

    name: str
    neighbour: Neighbour


Operation = (
    SetFlags
    | Rename
    | SetMtu
    | PutAddress
    | RemoveAddress
    | PutRoute
    | RemoveRoute
    | PutNeighbour
    | RemoveNeighbour
)


def describe(operation: Operation) -> str:
    """What it does, as errors and logs say it; the words are those of ip(8)."""
    match operation:
        case SetFlags(_, name, flags, mask, _):
            words = [_FLAGS[bit, flags & bit] for bit in (IFF_UP, IFF_NOARP) if mask & bit]
            return f"set interface {name} {' '.join(words)}"
        case Rename(_, name, to):
            return f"rename interface {name} to {to}"
        case SetMtu(_, name, mtu, _):
            return f"set interface {name} mtu {mtu}"
        case PutAddress(name, address):
            return f"add address {_address(address)} to {name}"
        case RemoveAddress(name, address):
            return f"remove address {_address(address)} from {name}"
        case PutRoute(name, route, before, _):
            return f"{'add' if before is None else 'replace'} route {_route(route)} dev {name}"
        case RemoveRoute(name, route):
            return f"remove route {_route(route)} dev {name}"
        case PutNeighbour(name, neighbour, before):
            return f"{'add' if before is None else 'change'} neighbor {_neighbour(neighbour)} dev {name}"
        case RemoveNeighbour(name, neighbour):
            return f"remove neighbor {_neighbour(neighbour)} dev {name}"
        case _:
            assert_never(operation)


def describe_failure(operation: Operation, why: str) -> str:
    """What is told when the kernel refuses it. For routes these are the words of Kata's agent."""
    match operation:
        case PutRoute(name, route, _, (source, dest, gateway)):
            version = "v6" if route.family == AF_INET6 else "v4"
            return (
                f"Failed to add IP {version} route"
                f" (src: {source}, dst: {dest}, gtw: {gateway}, dev: {name}, Err: {why})"
            )
        case _:
            return f"{describe(operation)}: {why}"


def invert(operation: Operation) -> Operation:
    """The change that takes it back."""
    match operation:
        case SetFlags(link, name, flags, mask, before):
            return SetFlags(link, name, before & mask, mask, flags)
        case Rename(link, name, to):
            return Rename(link, to, name)
        case SetMtu(link, name, mtu, before):
            return SetMtu(link, name, before, mtu)
        case PutAddress(name, address):
            return RemoveAddress(name, address)
        case RemoveAddress(name, address):
            return PutAddress(name, address)
        case PutRoute(name, route, before, _):
            return RemoveRoute(name, route) if before is None else PutRoute(name, before, route)
        case RemoveRoute(name, route):
            return PutRoute(name, route)
        case PutNeighbour(name, neighbour, before):
            if before is None:
                return RemoveNeighbour(name, neighbour)
            return PutNeighbour(name, before, neighbour)
        case RemoveNeighbour(name, neighbour):
            return PutNeighbour(name, neighbour)
        case _:
            assert_never(operation)


def _address(address: Address) -> str:
    return f"{format_ip(address.peer)}/{address.prefix}"


def _route(route: Route) -> str:
    via = f" via {format_ip(route.gateway)}" if route.gateway else ""
    return f"{format_ip(route.destination)}/{route.prefix}{via}"


def _neighbour(neighbour: Neighbour) -> str:
    link_address = format_link_address(neighbour.link_address)
    return f"{format_ip(neighbour.destination)} lladdr {link_address or 'none'}"
