"""Addresses of agents and listeners, as people and configurations write them. Parsing only.

Document: spec of the host side, 1.3 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

VMADDR_CID_ANY = 0xFFFFFFFF


class UnixAddress(NamedTuple):
    """A unix stream socket; an abstract name begins with a NUL byte, as the kernel wants it."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path.replace(chr(0), '@', 1)}"


class VsockAddress(NamedTuple):
    """A vsock port; VMADDR_CID_ANY listens on every CID."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock://{-1 if self.cid == VMADDR_CID_ANY else self.cid}:{self.port}"


class HybridAddress(NamedTuple):
    """A guest's vsock port behind a VMM's unix socket: connect, then the `CONNECT port` handshake."""

    path: str
    port: int

    def __str__(self) -> str:
        return f"hvsock://{self.path}:{self.port}"


class SerialAddress(NamedTuple):
    """A guest's serial channel: the VMM's unix socket of a virtio port, or a device. One peer at a time has it."""

    path: str

    def __str__(self) -> str:
        return f"serial://{self.path}"


Address = UnixAddress | VsockAddress | HybridAddress | SerialAddress


def _parse_unix(rest: str) -> UnixAddress:
    path = "\0" + rest[1:] if rest.startswith("@") else rest
    if not path.strip("\0"):
        raise ValueError("socket path is missing")
    return UnixAddress(path)


def _parse_number(text: str, name: str, *, any_value: int | None = None) -> int:
    if any_value is not None and text in ("", "-1"):
        return any_value
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFFFFFF:
        raise ValueError(f"{name} {text!r} is not a number from 0 to 4294967295")
    return int(text)


def _parse_vsock(rest: str) -> VsockAddress:
    cid, colon, port = rest.rpartition(":")
    if not colon:
        raise ValueError("want CID:PORT")
    return VsockAddress(_parse_number(cid, "CID", any_value=VMADDR_CID_ANY), _parse_number(port, "port"))


def _parse_hybrid(rest: str) -> HybridAddress:
    path, colon, port = rest.rpartition(":")
    if not colon or not path:
        raise ValueError("want PATH:PORT")
    return HybridAddress(path, _parse_number(port, "port"))


def _parse_serial(rest: str) -> SerialAddress:
    if not rest.startswith("/"):
        raise ValueError("want an absolute path")
    return SerialAddress(rest)


_SCHEMES: dict[str, Callable[[str], Address]] = {
    "unix": _parse_unix,
    "vsock": _parse_vsock,
    "hvsock": _parse_hybrid,
    "serial": _parse_serial,
    "remote": _parse_unix,  # the remote hypervisor's proxy: a plain unix socket, no handshake
}


def parse_address(text: str) -> Address:
    """Parse `unix:///PATH`, `unix://@NAME`, `vsock://CID:PORT`, `hvsock://PATH:PORT`, `serial:///PATH` or
    `remote://PATH`."""
    scheme, *rest = text.split("://")
    parse = _SCHEMES.get(scheme.lower())
    if parse is None or len(rest) != 1:
        raise ValueError(f"address {text!r}: want SCHEME://..., SCHEME one of {', '.join(_SCHEMES)}")
    try:
        return parse(rest[0])
    except ValueError as error:
        raise ValueError(f"address {text!r}: {error}") from None
