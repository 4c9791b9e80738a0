"""Ports of a guest beside the agent's own: its log, its debug console. From the agent's address to a connection.

Knows no protocol: bytes as they come. A port that is not configured is not listened on, which a dial tells by name.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kata_protocols.aio.address import Address, SerialAddress, UnixAddress, parse_address
from kata_protocols.aio.dial import connect_once

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator

LOG_PORT = 1025
CONSOLE_PORT = 1026
DIAL_TIMEOUT_S = 10.0
LINE_LIMIT_BYTES = 1 << 20
_READ_BYTES = 65536


def find_port_address(agent: Address | str, port: int) -> Address:
    """Where this port of the guest is whose agent is at this address. ValueError for what has no ports."""
    address = parse_address(agent) if isinstance(agent, str) else agent
    if isinstance(address, UnixAddress | SerialAddress):
        raise ValueError(  # noqa: TRY004 - the address is wrong, not its type
            f"{address}: it has no ports; name the address of port {port}"
        )
    return address._replace(port=port)


async def dial_port(address: Address, setting: str) -> socket.socket:
    """A connection, which the caller owns. OSError says which setting opens the port."""
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            return await connect_once(address)
    except OSError as error:
        hint = f"nobody listens there; start the guest with {setting}"
        raise OSError(error.errno, f"connect {address}: {error.strerror or error} ({hint})") from error


async def read_lines(connection: socket.socket) -> AsyncGenerator[bytes, None]:
    """Whole lines without their ends, until the peer closes. A line beyond the limit is cut there."""
    loop = asyncio.get_running_loop()
    buffer = b""
    while True:
        try:
            data = await loop.sock_recv(connection, _READ_BYTES)
        except ConnectionResetError:
            data = b""  # the agent has died: its end all the same
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield line
        if len(buffer) > LINE_LIMIT_BYTES:
            yield buffer
            buffer = b""
    if buffer:
        yield buffer
