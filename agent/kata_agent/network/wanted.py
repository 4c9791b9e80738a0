"""What a request wants of the network, parsed. Pure.

Follows: Kata's agent 3.21, "Network". A value that does not parse is told by name before anything is changed.
"""

from __future__ import annotations

from kata_agent.network.value import (
    AF_INET,
    AF_INET6,
    BITS,
    Malformed,
    family_of,
    parse_ip,
    parse_link_address,
    parse_network,
)
from kata_linux.record import Record

NAME_LIMIT_BYTES = 15
MTU_LIMIT_BYTES = (
    0xFFFF_FFFF  # what the kernel's attribute holds; what a device can do is the kernel's to say
)
NUD_PERMANENT = 0x80


class WantedAddress(Record):
    """An address and the length of its prefix."""

    address: bytes
    prefix: int


class WantedInterface(Record):
    """One interface, found by its hardware address, by its place on the PCI bus, or by both."""

    name: str
    mac: bytes
    device_path: str = ""
    addresses: tuple[WantedAddress, ...] = ()
    mtu: int = 0
    no_arp: bool = False


class WantedRoute(Record):
    """A route. `text` has source, destination and gateway as they came, for messages."""

    device: str
    family: int
    destination: bytes
    prefix: int
    gateway: bytes = b""
    source: bytes = b""
    source_prefix: int = 0
    preferred_source: bytes = b""
    scope: int = 0
    flags: int = 0
    mtu: int = 0
    text: tuple[str, str, str] = ("", "", "")


class WantedNeighbour(Record):
    """An entry of the neighbour table."""

    device: str
    destination: bytes
    link_address: bytes = b""
    state: int = NUD_PERMANENT
    flags: int = 0


def check_name(name: str) -> str:
    """Refuse what the kernel would refuse, or take for a pattern (`%d`)."""
    if len(name.encode()) > NAME_LIMIT_BYTES:
        raise Malformed(f"interface name {name!r} has more than {NAME_LIMIT_BYTES} bytes")
    if name in (".", "..") or any(letter in "/:%\0" or letter.isspace() for letter in name):
        raise Malformed(f"interface name {name!r} has a character that no interface name can have")
    return name


def check_mtu(mtu: int) -> int:
    """Refuse what the kernel has no room for."""
    if mtu > MTU_LIMIT_BYTES:
        raise Malformed(f"mtu {mtu} is more than any interface has, {MTU_LIMIT_BYTES}")
    return mtu


def parse_route(
    *, dest: str, gateway: str, device: str, source: str, scope: int, v6: bool, flags: int, mtu: int
) -> WantedRoute:
    """A route from the words of the message.

    The addresses decide the family, the field where there are none (hosts leave it at its default, which is v4). A
    source without a prefix is the preferred source, as both of Kata's runtimes mean it.
    """
    destination, prefix = parse_network(dest, "route: destination") if dest else (b"", 0)
    hop = parse_ip(gateway, "route: gateway") if gateway else b""
    origin, origin_prefix = parse_network(source, "route: source") if source else (b"", None)
    family = next(
        (family_of(address) for address in (destination, hop, origin) if address), AF_INET6 if v6 else AF_INET
    )
    if (v6 and family == AF_INET) or (origin and family_of(origin) != family):
        raise Malformed(
            f"route: destination {dest!r}, gateway {gateway!r}, source {source!r} and the family"
            f" {'v6' if v6 else 'v4'} do not belong together"
        )
    if prefix is None:  # a host, but nobody routes to the host "any"
        prefix = BITS[family] if any(destination) else 0
    network = bool(origin_prefix)
    return WantedRoute(
        device,
        family,
        destination or bytes(BITS[family] // 8),
        prefix,
        hop,
        origin if network else b"",
        origin_prefix or 0,
        b"" if network else origin,
        scope & 0xFF,
        flags,
        mtu,
        (source, dest, gateway),
    )


def parse_neighbour(*, address: str, device: str, lladdr: str, state: int, flags: int) -> WantedNeighbour:
    """A neighbour from the words of the message. State 0 means permanent."""
    if not address:
        raise Malformed("Unable to determine ip address of ARP neighbor")
    return WantedNeighbour(
        device,
        parse_ip(address, "neighbor: address"),
        parse_link_address(lladdr, "neighbor: hardware address") if lladdr else b"",
        state & 0xFFFF or NUD_PERMANENT,
        flags & 0xFF,
    )
