"""Dialing: from an address to a connected, non-blocking socket.

Document: spec of the host side, 1.3 and 3.1. A guest that is still booting refuses, resets or answers the
handshake with an end of stream; every attempt uses a new socket.
"""

from __future__ import annotations

import asyncio
import errno
import socket

from kata_protocols.aio.address import Address, HybridAddress, SerialAddress, VsockAddress

RETRY_S = 0.01
HANDSHAKE_S = 10.0
MAX_LINE_BYTES = 256

# What a peer that is not there yet looks like. Everything else will not get better by waiting.
_NOT_YET = frozenset(
    {
        errno.ENOENT,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EPIPE,
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.ENODEV,
        errno.EHOSTUNREACH,
    }
)


class HandshakeError(ConnectionError):
    """The VMM did not connect us to the guest's port."""


async def shake_hands(sock: socket.socket, port: int, *, verb: str = "CONNECT") -> int:
    """Ask the VMM behind `sock` for the guest's vsock `port`; gives the port that the guest sees us at, 0 if not told.

    Reads not a byte beyond the answer's line: what follows is the guest's.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, f"{verb} {port}\n".encode())
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = await loop.sock_recv(sock, 1)
        if not byte:
            raise HandshakeError(errno.ECONNRESET, f"port {port}: nobody listens there yet")
        line += byte
        if len(line) > MAX_LINE_BYTES:
            break
    if not line.startswith(b"OK"):
        raise HandshakeError(errno.EPROTO, f"port {port}: answer {bytes(line)!r} is not OK")
    own = line.removeprefix(b"OK").strip()
    return int(own) if own.isdigit() else 0


async def connect_once(address: Address) -> socket.socket:
    """Make one attempt; bound it from outside with a timeout."""
    if isinstance(address, SerialAddress):
        from kata_protocols.aio.serial import connect_alone

        return await connect_alone(address.path, timeout_s=HANDSHAKE_S)
    if isinstance(address, VsockAddress):
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        if isinstance(address, VsockAddress):
            await asyncio.get_running_loop().sock_connect(sock, (address.cid, address.port))
        else:
            # Connects at once or not at all (EAGAIN: the backlog is full), unlike what sock_connect expects.
            sock.connect(address.path)
        if isinstance(address, HybridAddress):
            async with asyncio.timeout(HANDSHAKE_S):
                await shake_hands(sock, address.port)
    except BaseException:
        sock.close()
        raise
    return sock


async def dial(address: Address, *, timeout_s: float) -> socket.socket:
    """Attempt to connect every 10 ms until `timeout_s` has passed; TimeoutError then names the last reason.

    The caller owns the socket.
    """
    last: OSError | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await connect_once(address)
                except OSError as error:
                    if not _may_pass(error):
                        raise _named(address, error) from error
                    last = error
                # Nothing tells when a guest begins to listen: polling is the protocol here.
                await asyncio.sleep(RETRY_S)
    except TimeoutError:
        raise TimeoutError(
            errno.ETIMEDOUT, f"{address}: no connection within {timeout_s:g} s (last: {last})"
        ) from last


def _may_pass(error: OSError) -> bool:
    return isinstance(error, TimeoutError | HandshakeError) or error.errno in _NOT_YET


def _named(address: Address, error: OSError) -> OSError:
    return OSError(error.errno, f"connect {address}: {error.strerror or error}")
