"""Addresses as text and as the bytes of the network. Pure; `ipaddress` would cost an import of 1 MB."""

from __future__ import annotations

import socket

from kata_agent.errors import Malformed as Malformed  # what the parsers here raise

AF_INET = 2
AF_INET6 = 10
BITS = {AF_INET: 32, AF_INET6: 128}
_DIGITS = 8  # leading zeros are fine, but Python refuses numbers of thousands of digits in words of its own


def parse_ip(text: str, what: str) -> bytes:
    """4 or 16 bytes."""
    try:
        return socket.inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        raise Malformed(f"{what} {text!r} is not an IP address") from None


def format_ip(address: bytes) -> str:
    """The address as people write it."""
    return socket.inet_ntop(family_of(address), address)


def family_of(address: bytes) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if len(address) == 4 else AF_INET6


def parse_prefix(text: str, address: bytes, what: str) -> int:
    """The decimal length of a prefix of this address."""
    most = len(address) * 8
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= most):
        raise Malformed(f"{what} {text!r} is not the length of a prefix, 0 to {most}")
    return int(text)


def parse_network(text: str, what: str) -> tuple[bytes, int | None]:
    """Address and length of its prefix, None when there is none. Bits behind the prefix are cleared."""
    head, slash, tail = text.partition("/")
    address = parse_ip(head, what)
    if not slash:
        return address, None
    prefix = parse_prefix(tail, address, what)
    rest = len(address) * 8 - prefix
    return (int.from_bytes(address, "big") >> rest << rest).to_bytes(len(address), "big"), prefix


def parse_link_address(text: str, what: str) -> bytes:
    """Hexadecimal bytes between colons."""
    parts = text.split(":")
    if not all(len(part) == 2 and set(part) <= set("0123456789abcdefABCDEF") for part in parts):
        raise Malformed(f"{what} {text!r} is not a hardware address like 02:00:ca:fe:00:01")
    return bytes(int(part, 16) for part in parts)


def parse_mac(text: str, what: str) -> bytes:
    """Six bytes."""
    address = parse_link_address(text, what)
    if len(address) != 6:
        raise Malformed(f"{what} {text!r} is not a hardware address like 02:00:ca:fe:00:01")
    return address


def format_link_address(address: bytes) -> str:
    """As Kata's agent writes it: upper case; empty for lengths that it does not know."""
    return address.hex(":").upper() if len(address) in (4, 6, 16) else ""
