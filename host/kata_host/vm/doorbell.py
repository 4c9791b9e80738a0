"""Hears the guest: one line for each thing that happened in it, over vsock to a port of the host.

PID 1 rings when it is up and whenever the agent has become ready, so nobody has to ask. The port is named to it
on the kernel command line (`kata.doorbell=PORT`). What is rung comes from the guest, so its length and its time
are bounded.

Somebody must answer for as long as the listener is open: `vhost-device-vsock` 0.3.0 connects to it with a call that
blocks, so that one ring beyond a full backlog stops every connection of the machine, for good.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

PID1_UP = "pid1 up"
AGENT_READY = "agent ready"

_LIMIT_BYTES = 512
_LINE_TIMEOUT_S = 5.0


async def iterate_rings(listener: socket.socket, cid: int | None = None) -> AsyncIterator[str]:
    """The lines that arrive, one for each connection; a caller that sends nothing in time is passed over.

    On the kernel's vsock every guest can call: only the one with `cid` is heard. A connected socket, which a virtio
    port's is, has one line after the other, until it ends.
    """
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        async for line in _iterate_lines(listener):
            yield line
        return
    loop = asyncio.get_running_loop()
    while True:
        connection, peer = await loop.sock_accept(listener)
        with connection:
            if cid is not None and peer[0] != cid:
                continue
            connection.settimeout(0)
            try:
                async with asyncio.timeout(_LINE_TIMEOUT_S):
                    line = await _read_line(connection)
            except (TimeoutError, ConnectionError):
                continue
        if line:
            yield line


async def answer_rings(listener: socket.socket, cid: int | None = None) -> None:
    """Take whatever is rung, until cancelled: each later life of the agent rings, too."""
    async for _ in iterate_rings(listener, cid):
        pass  # who wants to know follows the agent's events


async def _iterate_lines(connection: socket.socket) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    data = b""
    while piece := await loop.sock_recv(connection, _LIMIT_BYTES):
        *lines, data = (data + piece).split(b"\n")
        data = data[:_LIMIT_BYTES]
        for line in lines:
            yield line.decode(errors="replace").strip()


async def _read_line(connection: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    data = b""
    while b"\n" not in data and len(data) < _LIMIT_BYTES:
        piece = await loop.sock_recv(connection, _LIMIT_BYTES - len(data))
        if not piece:
            break
        data += piece
    return data.split(b"\n", 1)[0].decode(errors="replace").strip()
