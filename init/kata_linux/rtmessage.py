"""Messages of rtnetlink(7) as records: links, addresses, routes and neighbours, to bytes and back. Pure.

Owns: the layout of RTM_* payloads. Must not know: sockets, nor which records are wanted. Addresses are bytes as on
the network (4 or 16), link addresses are bytes; a field that the kernel did not give is empty or 0.
"""

from __future__ import annotations

import struct

from kata_linux.netlink_attribute import pack_attributes, text, unpack_attributes
from kata_linux.record import Record

AF_UNSPEC = 0
AF_INET = 2
AF_INET6 = 10
IFF_UP = 0x1
IFF_NOARP = 0x80
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RTN_UNICAST = 1

LINK_HEAD = struct.Struct("=BxHiII")
ADDRESS_HEAD = struct.Struct("=BBBBI")
ROUTE_HEAD = struct.Struct("=BBBBBBBBI")
NEIGHBOUR_HEAD = struct.Struct("=BxxxiHBB")
_NEXTHOP = struct.Struct("=HBBi")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 2, 4, 5, 6
_RTA_PREFSRC, _RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 7, 8, 9, 15, 18
_RTAX_MTU = 2
_NDA_DST, _NDA_LLADDR = 1, 2


class Link(Record):
    """A network interface; `number` is its index, `flags` are those of netdevice(7)."""

    number: int
    name: str
    address: bytes
    mtu: int
    flags: int


class Address(Record):
    """An address of a link. `peer` is IFA_ADDRESS, the other end's on point-to-point links; `local` is IFA_LOCAL."""

    link: int
    family: int
    prefix: int
    peer: bytes
    local: bytes = b""
    flags: int = 0
    broadcast: bytes = b""


class Route(Record):
    """A route with one next hop. `flags` are RTNH_F_*, `metric` its priority, `source` a RTA_SRC network."""

    family: int
    destination: bytes
    prefix: int
    link: int
    gateway: bytes = b""
    scope: int = 0
    source: bytes = b""
    source_prefix: int = 0
    preferred_source: bytes = b""
    mtu: int = 0
    metric: int = 0
    flags: int = 0
    protocol: int = RTPROT_BOOT
    kind: int = RTN_UNICAST
    table: int = RT_TABLE_MAIN


class Neighbour(Record):
    """A neighbour of a link. `state` is NUD_*, `flags` are NTF_*."""

    link: int
    family: int
    destination: bytes
    link_address: bytes
    state: int
    flags: int = 0


def unpack_link(body: bytes) -> Link:
    """The payload of a RTM_NEWLINK."""
    _, _, index, flags, _ = LINK_HEAD.unpack_from(body)
    found = unpack_attributes(body[LINK_HEAD.size :])
    name, mtu = text(found.get(_IFLA_IFNAME, b"")), _number(found.get(_IFLA_MTU))
    return Link(index, name, found.get(_IFLA_ADDRESS, b""), mtu, flags)


def unpack_address(body: bytes) -> Address:
    """The payload of a RTM_NEWADDR."""
    family, prefix, flags, _, index = ADDRESS_HEAD.unpack_from(body)
    found = unpack_attributes(body[ADDRESS_HEAD.size :])
    local = found.get(_IFA_LOCAL, b"")
    return Address(
        index,
        family,
        prefix,
        found.get(_IFA_ADDRESS, local),
        local,
        _number(found[_IFA_FLAGS]) if _IFA_FLAGS in found else flags,
        found.get(_IFA_BROADCAST, b""),
    )


def pack_address(address: Address) -> bytes:
    """The payload of a RTM_NEWADDR or RTM_DELADDR."""
    head = ADDRESS_HEAD.pack(address.family, address.prefix, address.flags & 0xFF, 0, address.link)
    optional = {_IFA_LOCAL: address.local, _IFA_BROADCAST: address.broadcast}
    attributes = {_IFA_ADDRESS: address.peer, **{kind: value for kind, value in optional.items() if value}}
    return head + pack_attributes(attributes)


def unpack_routes(body: bytes) -> list[Route]:
    """The payload of a RTM_NEWROUTE: a route for each next hop."""
    family, prefix, source_prefix, _, table, protocol, scope, kind, flags = ROUTE_HEAD.unpack_from(body)
    found = unpack_attributes(body[ROUTE_HEAD.size :])
    whole = Route(
        family,
        found.get(_RTA_DST, bytes(4 if family == AF_INET else 16)),
        prefix,
        _number(found.get(_RTA_OIF)),
        _gateway(found),
        scope,
        found.get(_RTA_SRC, b""),
        source_prefix,
        found.get(_RTA_PREFSRC, b""),
        _number(unpack_attributes(found.get(_RTA_METRICS, b"")).get(_RTAX_MTU)),
        _number(found.get(_RTA_PRIORITY)),
        flags,
        protocol,
        kind,
        _number(found.get(_RTA_TABLE)) or table,
    )
    hops = list(_iterate_hops(found.get(_RTA_MULTIPATH, b"")))
    return [whole._replace(link=link, gateway=gateway, flags=each) for link, gateway, each in hops] or [whole]


def _iterate_hops(data: bytes) -> list[tuple[int, bytes, int]]:
    hops, offset = [], 0
    while offset + _NEXTHOP.size <= len(data):
        length, flags, _, link = _NEXTHOP.unpack_from(data, offset)
        if length < _NEXTHOP.size:
            break
        found = unpack_attributes(data[offset + _NEXTHOP.size : offset + length])
        hops.append((link, _gateway(found), flags))
        offset += length + 3 & ~3
    return hops


def _gateway(found: dict[int, bytes]) -> bytes:
    return found.get(_RTA_GATEWAY) or found.get(_RTA_VIA, b"")[2:]  # after the family's two bytes


def pack_route(route: Route) -> bytes:
    """The payload of a RTM_NEWROUTE or RTM_DELROUTE. A default route has a destination of zeros, too."""
    head = ROUTE_HEAD.pack(
        *(route.family, route.prefix, route.source_prefix, 0, route.table),
        *(route.protocol, route.scope, route.kind, route.flags),
    )
    metrics = pack_attributes({_RTAX_MTU: struct.pack("=I", route.mtu)}) if route.mtu else b""
    optional = {
        _RTA_SRC: route.source,
        _RTA_OIF: struct.pack("=I", route.link) if route.link else b"",
        _RTA_PREFSRC: route.preferred_source,
        _RTA_METRICS: metrics,
        _RTA_PRIORITY: struct.pack("=I", route.metric) if route.metric else b"",
        **_pack_gateway(route),
    }
    attributes = {_RTA_DST: route.destination, **{kind: value for kind, value in optional.items() if value}}
    return head + pack_attributes(attributes)


def _pack_gateway(route: Route) -> dict[int, bytes]:
    if len(route.gateway) == len(route.destination):
        return {_RTA_GATEWAY: route.gateway}
    # an IPv4 destination behind an IPv6 gateway (RFC 5549)
    return {_RTA_VIA: struct.pack("=H", AF_INET6) + route.gateway} if route.gateway else {}


def unpack_neighbour(body: bytes) -> Neighbour:
    """The payload of a RTM_NEWNEIGH."""
    family, index, state, flags, _ = NEIGHBOUR_HEAD.unpack_from(body)
    found = unpack_attributes(body[NEIGHBOUR_HEAD.size :])
    return Neighbour(index, family, found.get(_NDA_DST, b""), found.get(_NDA_LLADDR, b""), state, flags)


def pack_neighbour(neighbour: Neighbour) -> bytes:
    """The payload of a RTM_NEWNEIGH or RTM_DELNEIGH."""
    head = NEIGHBOUR_HEAD.pack(
        neighbour.family, neighbour.link, neighbour.state, neighbour.flags, RTN_UNICAST
    )
    attributes = {_NDA_DST: neighbour.destination}
    if neighbour.link_address:
        attributes[_NDA_LLADDR] = neighbour.link_address
    return head + pack_attributes(attributes)


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "little")
