"""From an address to an `AgentClient`, and a variant that survives the agent's death.

A connection is one socket for both services, as Kata's runtime has it. `ReconnectingCaller` is for calls that may
be asked again (waits, reads, checks): PID 1 starts a dead agent again, and the listening socket never goes away.
Follows 3.1 and 2.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from kata_host.client import AgentClient, Caller, Metadata
from kata_protocols.aio.address import Address, HybridAddress, UnixAddress, parse_address
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.dial import connect_once, dial
from kata_protocols.services import Method

DIAL_TIMEOUT_S = 30.0

# Asking these again changes nothing in the guest. Reads count too: what the agent had not delivered when it died
# still waits in its pipe (seam 1).
REPEATABLE = frozenset(
    {
        *("Check", "Version", "GetGuestDetails", "StatsContainer", "WaitProcess", "ReadStdout", "ReadStderr"),
        *("OpenSession", "ReadSession", "ListSessions"),
    }
)


async def open_caller(address: Address | str, *, timeout_s: float = DIAL_TIMEOUT_S) -> Client:
    """Dial and hand out the bare connection; with a `timeout_s` of 0 there is one attempt."""
    target = parse_address(address) if isinstance(address, str) else address
    return Client(await (dial(target, timeout_s=timeout_s) if timeout_s > 0 else connect_once(target)))


async def connect(
    address: Address | str, timeout_s: float = DIAL_TIMEOUT_S, *, reconnect: bool = False
) -> AgentClient:
    """A client for the agent at `address`; attempts go on until `timeout_s` has passed.

    `address` is `unix:///PATH`, `unix://@NAME`, `vsock://CID:PORT`, `hvsock://PATH:PORT`, `serial:///PATH` or
    `remote://PATH`. With `reconnect`, calls that may be repeated are, over a new connection, when the agent dies
    under them.
    """
    if not reconnect:
        return AgentClient(await open_caller(address, timeout_s=timeout_s))
    caller = ReconnectingCaller(lambda: open_caller(address, timeout_s=timeout_s))
    await caller.open()
    return AgentClient(caller)


def as_hybrid(address: str, port: int) -> Address:
    """A `unix://` path taken as a VMM's multiplexer socket, whose guest port is asked for."""
    parsed = parse_address(address)
    if not isinstance(parsed, UnixAddress) or parsed.path.startswith("\0"):
        raise ValueError(f"{address}: --hybrid-vsock goes with a unix:///PATH address")
    return HybridAddress(parsed.path, port)


class ReconnectingCaller:
    """A connection that is opened again when it is lost; calls in `REPEATABLE` are then sent again, others fail."""

    def __init__(self, opener: Callable[[], Awaitable[Caller]]) -> None:
        self._opener = opener
        self._caller: Caller | None = None
        self._generation = 0
        self._opening = asyncio.Lock()
        self._closed = False

    async def open(self) -> None:
        """Make the first connection."""
        await self._renew(self._generation)

    async def _renew(self, seen: int) -> None:
        async with self._opening:
            if self._closed:
                raise ConnectionLostError("this client was closed")
            if self._generation != seen:
                return  # another call has renewed it already
            if self._caller is not None:
                await self._caller.aclose()
            self._caller = await self._opener()
            self._generation += 1

    async def call(
        self, method: Method, request: Message, *, timeout_s: float | None = None, metadata: Metadata = ()
    ) -> Any:
        """As a plain connection's, but a repeatable call outlives the connection; `timeout_s` bounds each attempt."""
        while True:
            seen = self._generation
            if self._caller is None:
                raise ConnectionLostError("this client was never opened")
            try:
                return await self._caller.call(method, request, timeout_s=timeout_s, metadata=metadata)
            except ConnectionLostError:
                await self._renew(seen)
                if method.name not in REPEATABLE:
                    raise

    async def aclose(self) -> None:
        """Close for good."""
        self._closed = True
        if self._caller is not None:
            await self._caller.aclose()
