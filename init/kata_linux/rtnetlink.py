"""Links, addresses, routes and neighbours of a network namespace: rtnetlink(7).

Owns: reading and changing them. Must not know: which of them are wanted. `rtmessage` has their layout.
"""

from __future__ import annotations

import errno
import struct

from kata_linux.netlink import NLM_F_CREATE, NLM_F_REPLACE, Netlink, Refused
from kata_linux.netlink_attribute import pack_attributes
from kata_linux.rtmessage import (
    ADDRESS_HEAD,
    AF_UNSPEC,
    LINK_HEAD,
    NEIGHBOUR_HEAD,
    ROUTE_HEAD,
    RT_TABLE_MAIN,
    Address,
    Link,
    Neighbour,
    Route,
    pack_address,
    pack_neighbour,
    pack_route,
    unpack_address,
    unpack_link,
    unpack_neighbour,
    unpack_routes,
)

_NETLINK_ROUTE = 0
_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_IFLA_IFNAME, _IFLA_MTU = 3, 4


class RouteNetlink(Netlink):
    """Reads and changes the network namespace of the calling thread. Changes raise `netlink.Refused`."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(_NETLINK_ROUTE, timeout_s)

    def links(self) -> list[Link]:
        """Every link, in the kernel's order."""
        found = self.dump(_GETLINK, LINK_HEAD.pack(AF_UNSPEC, 0, 0, 0, 0))
        return [unpack_link(body) for kind, body in found if kind == _NEWLINK]

    def addresses(self) -> list[Address]:
        """Every address of every link."""
        found = self.dump(_GETADDR, ADDRESS_HEAD.pack(AF_UNSPEC, 0, 0, 0, 0))
        return [unpack_address(body) for kind, body in found if kind == _NEWADDR]

    def routes(self, family: int) -> list[Route]:
        """Every route of the main table; one with several next hops is several routes."""
        request = ROUTE_HEAD.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
        try:
            found = self.dump(_GETROUTE, request)
        except Refused as error:
            if error.errno != errno.ENOENT:
                raise
            return []  # where no interface was ever up there is no table yet
        routes = [route for kind, body in found if kind == _NEWROUTE for route in unpack_routes(body)]
        return [route for route in routes if route.table == RT_TABLE_MAIN]

    def neighbours(self) -> list[Neighbour]:
        """Every neighbour of every link."""
        found = self.dump(_GETNEIGH, NEIGHBOUR_HEAD.pack(AF_UNSPEC, 0, 0, 0, 0))
        return [unpack_neighbour(body) for kind, body in found if kind == _NEWNEIGH]

    def rename(self, index: int, name: str) -> None:
        """Give a link a new name. Before Linux 6.2 EBUSY while it is up; EEXIST when the name is taken."""
        self._set_link(index, attributes={_IFLA_IFNAME: name.encode() + b"\0"})

    def set_mtu(self, index: int, mtu: int) -> None:
        """Set the link's MTU in bytes. EINVAL when the device cannot."""
        self._set_link(index, attributes={_IFLA_MTU: struct.pack("=I", mtu)})

    def set_flags(self, index: int, flags: int, mask: int) -> None:
        """Change the flags of `mask` to those of `flags`."""
        self._set_link(index, flags, mask, {})

    def _set_link(self, index: int, flags: int = 0, mask: int = 0, attributes: dict[int, bytes] = {}) -> None:  # noqa: B006 - it is only read
        body = LINK_HEAD.pack(AF_UNSPEC, 0, index, flags, mask) + pack_attributes(attributes)
        self.request(_SETLINK, 0, body)

    def put_address(self, address: Address) -> None:
        """Add an address, or change the one that is there."""
        self.request(_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, pack_address(address))

    def remove_address(self, address: Address) -> None:
        """Remove an address. EADDRNOTAVAIL: it is not there."""
        self.request(_DELADDR, 0, pack_address(address))

    def put_route(self, route: Route) -> None:
        """Add a route, or put it in the place of the one to the same destination with the same metric."""
        self.request(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, pack_route(route))

    def remove_route(self, route: Route) -> None:
        """Remove a route. ESRCH: it is not there."""
        self.request(_DELROUTE, 0, pack_route(route))

    def put_neighbour(self, neighbour: Neighbour) -> None:
        """Add a neighbour, or change the one that is there."""
        self.request(_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, pack_neighbour(neighbour))

    def remove_neighbour(self, neighbour: Neighbour) -> None:
        """Remove a neighbour. ENOENT: it is not there."""
        self.request(_DELNEIGH, 0, pack_neighbour(neighbour))
