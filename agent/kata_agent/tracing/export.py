"""Sends spans to the host, a task for each burst, none in between.

Owns the connection and a queue of at most `LIMIT` spans: the oldest goes and is counted. Nobody there is told once, and
tried again with a span that comes `RETRY_S` later or more. Must not know: what a span says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from kata_protocols.aio.address import parse_address
from kata_protocols.aio.dial import connect_once

if TYPE_CHECKING:
    import socket

    from kata_agent.log import Log

LIMIT = 512
RETRY_S = 1.0
SEND_DEADLINE_S = 5.0


class Exporter:
    """`group` is the agent's: it ends when what is being sent is sent, or when that has taken too long."""

    def __init__(self, address: str, group: asyncio.TaskGroup, log: Log) -> None:
        """ValueError for what is no address."""
        self._address = parse_address(address)
        self._group = group
        self._log = log
        self._queue: deque[bytes] = deque()
        self._connection: socket.socket | None = None
        self._sending = False
        self._failed_at = 0.0
        self._told = False
        self.dropped = 0

    def put(self, data: bytes) -> None:
        """Send this, now or later."""
        if len(self._queue) >= LIMIT:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(data)
        if not self._sending and (not self._failed_at or monotonic() - self._failed_at >= RETRY_S):
            self._sending = True
            self._group.create_task(self._send())

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _send(self) -> None:
        try:
            async with asyncio.timeout(SEND_DEADLINE_S):
                if self._connection is not None and has_hung_up(self._connection):
                    self.close()
                while self._queue:
                    if self._connection is None:
                        self._connection = await connect_once(self._address)
                    await self._send_one(self._connection, self._queue.popleft())
            self._failed_at, self._told = 0.0, False
        except (OSError, TimeoutError) as error:
            self.close()  # a span may have been cut: the next one needs a connection of its own
            self._failed_at = monotonic()
            self._tell(error)
        finally:
            self._sending = False

    async def _send_one(self, connection: socket.socket, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(connection, data)
        except BaseException:
            self.dropped += 1
            raise

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            why = str(error) or f"no answer within {SEND_DEADLINE_S:g} s"
            self._log.write(
                "error", "tracing", "spans do not reach the host", to=str(self._address), error=why
            )


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the peer has: what is sent to it then would be lost without a word."""
    try:
        return not connection.recv(1)  # a forwarder says nothing
    except BlockingIOError:
        return False
    except OSError:
        return True
