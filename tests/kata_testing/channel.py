"""A channel in a test: a server at one end, sockets at the other, and a line between them that can be cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from kata_protocols.aio.client import Client
from kata_protocols.aio.mux import Mux
from kata_protocols.aio.server import Server


@contextmanager
def line_to(server: Server) -> Iterator[Mux]:
    """The client's end of a channel on which `server` serves; a pair of sockets is the port."""
    ours, theirs = socket.socketpair()
    guest = serve_line(server, theirs)
    host = Mux(ours.detach(), client=True)
    try:
        yield host
    finally:
        host.close()
        guest.close()


def serve_line(server: Server, port: socket.socket) -> Mux:
    """The agent's end."""
    return Mux(port.detach(), client=False, on_stream=lambda sock: server.serve_connection(sock, "serial"))


def open_stream(mux: Mux) -> socket.socket:
    """A connection over the channel."""
    ours, theirs = socket.socketpair()
    mux.attach(theirs)
    ours.settimeout(0)
    return ours


def open_client(mux: Mux) -> Client:
    """A ttRPC client over the channel."""
    return Client(open_stream(mux))


async def read_all(sock: socket.socket) -> bytes:
    """Everything until the end."""
    data = b""
    while piece := await asyncio.get_running_loop().sock_recv(sock, 65536):
        data += piece
    return data


async def send_and_read_back(mux: Mux, data: bytes) -> bytes:
    """What comes back on a stream of its own while it is sent, until the end."""

    async def send() -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    with open_stream(mux) as sock:
        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            got = group.create_task(read_all(sock))
        return got.result()


async def echo(sock: socket.socket) -> None:
    """Send everything back."""
    loop = asyncio.get_running_loop()
    with sock:
        sock.settimeout(0)
        while piece := await loop.sock_recv(sock, 65536):
            await loop.sock_sendall(sock, piece)
