"""The client: calls over one connected socket, any number at a time.

Owns the socket it is given and a map from stream id to waiter; starts no task. A deadline is sent along and kept
locally; an answer that comes after it is dropped. When the connection is lost every waiter fails with
ConnectionLostError, which is not a status: nobody knows what became of the call.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kata_protocols.aio.client_stream import ClientStream
from kata_protocols.aio.hangup import take_leave
from kata_protocols.aio.transport import Transport
from kata_protocols.status import KNOWN_CODES, Code, StatusError
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    Metadata,
    Rejected,
    ResponseReceived,
)
from kata_protocols.ttrpc.state import Role

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata_protocols.services import Method

SCRATCH_BYTES = 64 * 1024
MAX_QUEUED_BYTES = 8 * 1024 * 1024
LINGER_S = 1.0  # an agent that dies may have answered one call before it could not be sent another


class ConnectionLostError(ConnectionError):
    """The connection ended before the call did; whether the call took effect is not known."""


class Client:
    """One connection to a server. Make it inside a running loop; it takes the socket over."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._codec = Connection(Role.CLIENT)
        self._waiters: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, ClientStream] = {}
        self._lost: ConnectionLostError | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self._transport = Transport(
            self._loop,
            sock,
            memoryview(bytearray(SCRATCH_BYTES)),
            on_data=self._on_data,
            on_lost=self._on_lost,
            on_drained=self._room.set,
            linger_s=LINGER_S,
        )
        self._transport.resume_reading()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone; every further call fails."""
        return self._lost is not None

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, whoever ended it."""
        await self._gone.wait()

    async def call(
        self,
        method: Method,
        request: Message,
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> Any:
        """Call `method`; return its response message.

        Raises StatusError with the server's status (DEADLINE_EXCEEDED also when the server says nothing in time),
        ConnectionLostError, or MessageTooLargeError when the request exceeds 4 MiB.
        """
        payload = request.SerializeToString()
        deadline = None if timeout_s is None else self._loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                return method.response_type.FromString(
                    await self._exchange(method, payload, timeout_s, metadata)
                )
        except TimeoutError:
            raise StatusError(Code.DEADLINE_EXCEEDED, "timeout") from None

    async def stream(
        self,
        method: Method,
        request: Message,
        *,
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncGenerator[Any, None]:
        """Call a server-streaming `method`; yields its messages. Errors are `call`'s.

        Leave it by `aclose` (`contextlib.aclosing`): the server is told then. Bounds: see `client_stream`.
        """
        payload = request.SerializeToString()
        deadline = None if timeout_s is None else self._loop.time() + timeout_s
        stream: ClientStream | None = None
        try:
            async with asyncio.timeout_at(deadline):
                stream_id, data = await self._begin(method, payload, timeout_s, metadata, streams=True)
                stream = self._streams[stream_id] = ClientStream(stream_id)
                self._transport.write(data)
            while True:
                async with asyncio.timeout_at(deadline):
                    message = await stream.take()
                self._pace()
                if message is None:
                    return
                yield method.response_type.FromString(message)
        except TimeoutError:
            raise StatusError(Code.DEADLINE_EXCEEDED, "timeout") from None
        finally:
            if stream is not None:
                self._leave(stream)

    def _leave(self, stream: ClientStream) -> None:
        """Nobody takes from this stream any more."""
        del self._streams[stream.stream_id]
        if not stream.ended and self._lost is None:
            self._transport.write(self._codec.send_cancel(stream.stream_id))
        self._codec.forget(stream.stream_id)
        self._pace()

    def _pace(self) -> None:
        """Read on, unless nobody waits for anything but streams that have enough."""
        if self._waiters or not self._streams or not all(s.is_full for s in self._streams.values()):
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    async def _begin(
        self, method: Method, payload: bytes, timeout_s: float | None, metadata: Metadata, *, streams: bool
    ) -> tuple[int, bytes]:
        """The id of a new call and the bytes that begin it, when there is room to send them."""
        if self._transport.queued_bytes > MAX_QUEUED_BYTES:
            self._room.clear()
            await self._room.wait()
        if self._lost is not None:
            raise ConnectionLostError(*self._lost.args)
        return self._codec.send_request(
            method.service,
            method.name,
            payload,
            timeout_nano=0 if timeout_s is None else max(1, int(timeout_s * 1e9)),
            metadata=metadata,
            more=False if streams else None,
        )

    async def _exchange(
        self, method: Method, payload: bytes, timeout_s: float | None, metadata: Metadata
    ) -> bytes:
        stream_id, data = await self._begin(method, payload, timeout_s, metadata, streams=False)
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._waiters[stream_id] = waiter
        if self._streams:
            self._pace()
        try:
            self._transport.write(data)
            return await waiter
        finally:
            del self._waiters[stream_id]
            self._codec.forget(stream_id)
            if self._streams:
                self._pace()

    def _on_data(self, data: memoryview) -> None:
        self._codec.receive_data(data)
        while (event := self._codec.next_event()) is not None:
            if isinstance(event, ConnectionEnded):
                self._transport.abort()
            else:
                self._resolve(event)

    def _resolve(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._take_data(event)
            return
        if not isinstance(event, ResponseReceived | Rejected):
            return
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.finish(_status_error(event))
            return
        waiter = self._waiters.get(event.stream_id)
        if waiter is None or waiter.done():
            return
        error = _status_error(event)
        if error is not None:
            waiter.set_exception(error)
        elif isinstance(event, ResponseReceived):
            waiter.set_result(event.payload)

    def _take_data(self, event: DataReceived) -> None:
        """A message of a stream, or its end: an empty last frame (Go's library), or a response (others')."""
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if (event.data or not event.closed) and not stream.put(event.data):
            self._transport.write(self._codec.send_cancel(event.stream_id))
        if event.closed:
            self._codec.forget(event.stream_id)
            stream.finish(None)
        self._pace()

    def _on_lost(self, error: OSError | None) -> None:
        reason = "connection closed" if error is None else f"connection lost: {error}"
        self._lost = ConnectionLostError(reason)
        self._room.set()
        self._gone.set()
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(ConnectionLostError(reason))
        for stream in self._streams.values():
            stream.finish(ConnectionLostError(reason))

    async def aclose(self) -> None:
        """Close the connection; calls that wait fail."""
        if not self._transport.closed:
            take_leave(self._sock)
        self._transport.abort()
        await self._gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _status_error(event: ResponseReceived | Rejected) -> StatusError | None:
    """The error that a response stands for; None for success."""
    if isinstance(event, Rejected):
        return StatusError(event.code, event.message)
    if event.code == Code.OK:
        return None
    return StatusError(KNOWN_CODES.get(event.code, Code.UNKNOWN), event.message, event.details)
