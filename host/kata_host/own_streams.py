"""A process's standard streams on connections of their own: dialled before the process is made, named by port.

A connection goes to the guest's port 1027; the port that the guest sees it come from names it in CreateContainer
and ExecProcess. Behind a VMM's socket the `OK PORT` line tells it, on the kernel's vsock the socket itself; over a unix
socket, where there is no VM, it is in the abstract name that is bound here. Where none of these tells it, as
vhost-device-vsock answers with the guest's port, the agent is asked: by a token that the connection begins with.
Follows 3.9; decision 0047.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Self

from kata_host.client import Caller
from kata_host.sandbox_service import SandboxService
from kata_protocols.aio.address import (
    Address,
    HybridAddress,
    SerialAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from kata_protocols.aio.dial import HANDSHAKE_S, connect_once, shake_hands
from kata_protocols.aio.hangup import hanging_up

STREAM_PORT = 1027
STREAMS = ("stdin", "stdout", "stderr")
READ_BYTES = 1 << 18
TOKEN_BYTES = 16
_unix_ports = itertools.count(1)


class OwnStreams:
    """The connections of one process; a context manager that closes them."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._stack = ExitStack()
        self.ports: dict[str, int] = {}
        """The port fields of CreateContainer and ExecProcess."""

    @classmethod
    async def open(
        cls, address: Address | str, streams: Sequence[str] = STREAMS, *, agent: Caller | None = None
    ) -> Self:
        """Dial the agent's listener for streams, once for each; a terminal has stdin and stdout. OSError.

        `agent` is asked for the port where the vsock device does not tell it; without one that is refused.
        """
        target = parse_address(address) if isinstance(address, str) else address
        opened = cls()
        try:
            for stream in streams:
                connection, port = await dial_stream(target)
                opened._stack.enter_context(hanging_up(connection))
                opened._sockets[stream] = connection
                if isinstance(target, HybridAddress) and port in (0, target.port):
                    port = await ask_port(target, connection, agent)
                opened.ports[f"{stream}_port"] = port
        except BaseException:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Close all connections: an output that has not ended breaks, as a pipe does."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def read(self, stream: str) -> AsyncIterator[bytes]:
        """What the process writes, until its end."""
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._sockets[stream], READ_BYTES):
            yield data

    async def write_stdin(self, data: bytes) -> None:
        """All of `data`; BrokenPipeError or ConnectionResetError when the process reads no more."""
        await asyncio.get_running_loop().sock_sendall(self._sockets["stdin"], data)

    async def close_stdin(self) -> None:
        """No more input will come."""
        self._sockets["stdin"].shutdown(socket.SHUT_WR)


def find_stream_address(agent: Address | str, port: int = STREAM_PORT) -> Address:
    """Where streams go in the guest whose agent is at this address. ValueError for a unix socket, which is one door."""
    address = parse_address(agent) if isinstance(agent, str) else agent
    if isinstance(address, UnixAddress | SerialAddress):
        raise ValueError(  # noqa: TRY004 - the address is wrong, not its type
            f"{address}: streams need an address of their own here, name it"
        )
    return address._replace(port=port)


async def dial_stream(address: Address) -> tuple[socket.socket, int]:
    """One connection and the port by which the guest knows it; a VMM may not tell, or tell the guest's own. OSError."""
    if isinstance(address, SerialAddress):
        raise OSError(
            errno.EOPNOTSUPP, f"{address}: no streams on connections of their own over a serial channel"
        )
    if isinstance(address, VsockAddress):
        connection = await connect_once(address)
        return connection, int(connection.getsockname()[1])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(0)
        port = 0
        if isinstance(address, UnixAddress):
            port = next(_unix_ports)
            connection.bind(f"\0kata-stream-{os.getpid()}:{port}")
        connection.connect(address.path)
        if isinstance(address, HybridAddress):
            async with asyncio.timeout(HANDSHAKE_S):
                port = await shake_hands(connection, address.port)
    except BaseException:
        connection.close()
        raise
    return connection, port


async def ask_port(address: HybridAddress, connection: socket.socket, agent: Caller | None) -> int:
    """The port by which the guest knows a connection: told by the agent, of the one that begins with our token."""
    if agent is None:
        raise OSError(
            errno.EOPNOTSUPP,
            f"{address}: this vsock device does not tell the port that the guest sees (vhost-device-vsock answers "
            "with the guest's): name an agent to ask, or use streams by calls",
        )
    token = secrets.token_bytes(TOKEN_BYTES)
    await asyncio.get_running_loop().sock_sendall(connection, token)
    return await SandboxService(agent).name_stream(token)
