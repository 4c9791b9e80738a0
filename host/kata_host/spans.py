"""Spans that guests send to the host's port 10240: listen, and have each as it comes.

Takes the place of Kata's trace forwarder where there is none. Knows no machine but the socket it listens on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kata_protocols import span as spans
from kata_protocols.aio.address import (
    Address,
    HybridAddress,
    SerialAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from kata_protocols.aio.listen import open_listener

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator

TRACE_PORT = 10240
_WAITING = 256


def find_trace_address(agent: str, port: int = TRACE_PORT) -> Address:
    """Where the guest of this agent sends its spans on this host. ValueError for a plain unix socket."""
    address = parse_address(agent)
    match address:
        case HybridAddress(path):
            return UnixAddress(f"{path}_{port}")  # as the VMM hands a guest's connections to its host
        case VsockAddress():
            return VsockAddress(-1 & 0xFFFFFFFF, port)
        case UnixAddress() | SerialAddress():
            raise ValueError(f"{address}: it has no ports; name the address to listen on")


async def receive_spans(listener: socket.socket) -> AsyncGenerator[spans.Span, None]:
    """Each span of every connection, for ever. What is no span ends its connection and is a ValueError here.

    The caller owns the listener.
    """
    queue: asyncio.Queue[spans.Span | ValueError] = asyncio.Queue(_WAITING)  # full: the guests wait

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(spans.HEAD_BYTES), "big")
                if length > spans.LIMIT_BYTES:
                    await queue.put(ValueError(f"a span of {length} bytes"))
                    return
                await queue.put(spans.decode_span(await reader.readexactly(length)))
        except ValueError as error:
            await queue.put(error)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the guest has ended, or its agent
        finally:
            writer.close()

    server = await asyncio.start_server(read, sock=listener)
    async with server:
        while True:
            got = await queue.get()
            if isinstance(got, ValueError):
                raise got
            yield got


def listen_for_spans(address: Address) -> socket.socket:
    """A listening socket; a stale path is replaced. OSError."""
    return open_listener(address)
