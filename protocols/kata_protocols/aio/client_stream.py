"""The client's end of a server's stream: what has arrived and was not taken yet, bounded, and how it ended.

Knows no socket; the client feeds it and decides whether to go on reading. A consumer that is slow slows the server
down, unless calls wait on the same connection: then reading goes on, and at `HARD_LIMIT_BYTES` the stream fails.
"""

from __future__ import annotations

import asyncio
from collections import deque

from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.errors import Fault

SOFT_LIMIT_BYTES = 256 * 1024
HARD_LIMIT_BYTES = 8 * 1024 * 1024
ENTRY_BYTES = 128  # what a message costs beside its own bytes

FELL_BEHIND = Fault(Code.RESOURCE_EXHAUSTED, "stream read too slowly: {limit_bytes} bytes wait to be taken")


class ClientStream:
    """Serialized messages in order, then `None` or the stream's error, once."""

    __slots__ = ("_arrived", "_end", "_ended", "_messages", "queued_bytes", "stream_id")

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.queued_bytes = 0
        self._messages: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._end: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will arrive."""
        return self._ended

    @property
    def is_full(self) -> bool:
        """Whether enough waits to be taken."""
        return self.queued_bytes >= SOFT_LIMIT_BYTES

    def put(self, message: bytes) -> bool:
        """Take a message that has arrived; False when there was no room and the stream has failed."""
        if self._ended:
            return True
        if self.queued_bytes >= HARD_LIMIT_BYTES:
            self.finish(StatusError(FELL_BEHIND.code, FELL_BEHIND.text.format(limit_bytes=HARD_LIMIT_BYTES)))
            return False
        self._messages.append(message)
        self.queued_bytes += len(message) + ENTRY_BYTES
        self._arrived.set()
        return True

    def finish(self, error: Exception | None) -> None:
        """Nothing more will arrive; the first end counts."""
        if not self._ended:
            self._ended = True
            self._end = error
            self._arrived.set()

    async def take(self) -> bytes | None:
        """The next message; None at the end. Raises the error that the stream ended with."""
        while not self._messages:
            if self._ended:
                if self._end is not None:
                    raise self._end
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self.queued_bytes -= len(message) + ENTRY_BYTES
        return message
