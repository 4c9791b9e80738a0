"""gRPC connections: grpclib's HTTP/2 on a socket whose first bytes were HTTP/2's preface.

Imported when the first such peer comes, because grpclib costs 14 MB; works without `ssl`, which the guest does
not have. grpclib does HTTP/2 and gRPC's framing; tasks belong to our server, and the limits are ours: message
size, bytes and number of unfinished calls, and a peer that does not read is not read from.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import h2.config
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import GRPCError
from grpclib.metadata import Deadline
from grpclib.protocol import AbstractHandler, Buffer, H2Protocol, Stream
from grpclib.reflection.service import ServerReflection
from grpclib.server import request_handler
from h2.events import UnknownFrameReceived
from h2.settings import SettingCodes

from kata_protocols.aio.connection import MAX_CALL_BYTES, MAX_CALLS
from kata_protocols.aio.router import Call, Router
from kata_protocols.grpc.calls import BytesCodec, StatusCodec, UnaryCall
from kata_protocols.grpc.streams import StreamCall
from kata_protocols.status import StatusError
from kata_protocols.ttrpc.frame import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from kata_protocols.aio.server import Server

# h2's default of 100 is less than the waits and reads of fifty containers.
MAX_STREAMS = 1024

Headers = list[tuple[str, str]]


class _Described:
    """A service as grpclib's reflection wants to be told of it: by the paths of its methods."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __mapping__(self) -> dict[str, Handler]:
        return {f"/{self._name}/": Handler(None, Cardinality.UNARY_UNARY, bytes, bytes)}


def reflect(router: Router) -> dict[str, Handler]:
    """Return the reflection service's handlers by path; the router's services are what it tells of."""
    described = [_Described(name) for name in router.services]
    mapping: dict[str, Handler] = {}
    for service in ServerReflection.extend(described)[len(described) :]:
        mapping.update(service.__mapping__())
    return mapping


class BoundedBuffer(Buffer):
    """A stream's received data, of which no more than the connection allows is gathered for one message."""

    def __init__(self, acknowledge: Callable[[int], None], reserve: Callable[[int], bool]) -> None:
        super().__init__(acknowledge)
        self._reserve = reserve

    async def read(self, size: int) -> bytes:
        """Read exactly `size` bytes, or none at the stream's end."""
        if size > MAX_MESSAGE_BYTES or not self._reserve(size):
            text = f"message length {size} exceed maximum message size of {MAX_MESSAGE_BYTES}"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
        try:
            return await super().read(size)
        except AssertionError:
            raise GRPCError(Status.INVALID_ARGUMENT, "stream ended inside a message") from None


class GrpcConnection(AbstractHandler):
    """One HTTP/2 connection: its calls and its end."""

    held_bytes = 0  # HTTP/2's windows bound what is received

    def __init__(self, server: Server, reflection: Mapping[str, Handler], peer: str) -> None:
        self._server = server
        self._reflection = reflection
        self._peer = peer
        self._codec = BytesCodec()
        self._status_codec = StatusCodec()
        self._dispatch = _DispatchServerEvents()
        self._streams: dict[Stream, asyncio.Task[None]] = {}
        self._calls: set[UnaryCall] = set()
        self._unfinished = 0  # tasks, those that outlive their stream included
        self._reserved_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._closing = False

    # The connection's life

    async def open(self, sock: socket.socket, first: bytes) -> None:
        """Put the protocol on the socket."""
        try:
            await self._server.loop.connect_accepted_socket(partial(Http2, self, first), sock)
        except BaseException:
            sock.close()
            self._server.forget(self)
            raise

    def connected(self, transport: asyncio.Transport) -> None:
        """The protocol runs."""
        self._transport = transport
        if self._closing:
            transport.close()

    def close(self) -> None:
        """The connection is gone (grpclib calls this): nobody hears the running calls."""
        for task in list(self._streams.values()):
            task.cancel()
        self._streams.clear()
        self._server.forget(self)

    def begin_shutdown(self, *, silently: bool = False) -> None:
        """Close when the running calls have answered; to these peers UNAVAILABLE is a lost connection anyway."""
        del silently
        self._closing = True
        for call in list(self._calls):
            call.end_wait()
        self._close_when_idle()

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def _close_when_idle(self) -> None:
        if self._closing and not self._streams and self._transport is not None:
            self._transport.close()

    # Calls

    def accept(self, stream: Stream, headers: Headers, release_stream: Callable[[], None]) -> None:
        """Begin a call."""
        held = _Held(self, release_stream)
        stream.buffer = BoundedBuffer(partial(stream.connection.ack, cast("int", stream.id)), held.take)
        path = dict(headers).get(":path", "")
        mapping = self._reflection
        if path not in mapping:
            mapping, headers = self._route(path, headers)
        task = self.start_task(
            request_handler(
                dict(mapping),
                stream,
                headers,
                self._codec,
                self._status_codec,
                self._dispatch,
                held.release,
            )
        )
        self._streams[stream] = task
        task.add_done_callback(lambda _task: self._ended(stream, held))

    def _route(self, path: str, headers: Headers) -> tuple[dict[str, Handler], Headers]:
        """Return grpclib's handler table for one call, and the headers without the deadline that we keep."""
        service, _, method = path.removeprefix("/").rpartition("/")
        if service not in self._server.router.services:
            return {}, headers
        known = self._server.router.services[service].methods.get(method)
        if known is None:
            return {}, headers
        cardinality = Cardinality.UNARY_STREAM if known.server_streaming else Cardinality.UNARY_UNARY
        try:
            limit = Deadline.from_headers(headers)
        except ValueError:
            return {path: _refused}, headers  # grpclib answers for the header
        headers = [(name, value) for name, value in headers if name != "grpc-timeout"]
        deadline = None if limit is None else self._server.loop.time() + limit.time_remaining()
        call = Call(service, method, (), deadline, self._peer)
        return {path: Handler(partial(self._serve, call), cardinality, bytes, bytes)}, headers

    async def _serve(self, call: Call, stream: Any) -> None:
        if self._closing or self._unfinished > MAX_CALLS:
            raise GRPCError(Status.UNAVAILABLE, "server is shutting down or has too many calls")
        try:
            endpoint = self._server.router.find(call.service, call.method)
        except StatusError as error:
            raise GRPCError(Status(int(error.code)), error.message) from error
        served = (StreamCall if endpoint.server_streaming else UnaryCall)(self, endpoint, call)
        self._calls.add(served)
        try:
            await served.serve(stream)
        finally:
            self._calls.discard(served)

    def cancel(self, stream: Stream) -> None:
        """The peer reset a stream."""
        task = self._streams.pop(stream, None)
        if task is not None:
            task.cancel()

    def _ended(self, stream: Stream, held: _Held) -> None:
        self._streams.pop(stream, None)
        held.release()
        self._close_when_idle()

    def reserve(self, size: int) -> bool:
        """Say whether so many more bytes of requests may be held; if so, they are."""
        if self._reserved_bytes + size > MAX_CALL_BYTES:
            return False
        self._reserved_bytes += size
        return True

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that may outlive its stream."""
        task = self._server.start_task(work)
        self._unfinished += 1
        task.add_done_callback(self._count_down)
        return task

    def _count_down(self, _task: asyncio.Task[None]) -> None:
        self._unfinished -= 1

    def report(self, call: Call, error: BaseException) -> None:
        """Tell the server's owner of a handler's unexpected error."""
        self._server.on_error(f"{call.service}/{call.method} from {call.peer}", error)


_refused = Handler(None, Cardinality.UNARY_UNARY, bytes, bytes)


class _Held:
    """What one stream holds: its place in grpclib's table, and bytes of requests. Released once.

    grpclib releases at the end of its own coroutine, which a task cancelled before its first step never enters.
    """

    def __init__(self, connection: GrpcConnection, release_stream: Callable[[], None]) -> None:
        self._connection = connection
        self._release_stream: Callable[[], None] | None = release_stream
        self._size = 0

    def take(self, size: int) -> bool:
        taken = self._connection.reserve(size)
        self._size += size if taken else 0
        return taken

    def release(self) -> None:
        self._connection.reserve(-self._size)
        self._size = 0
        if self._release_stream is not None:
            release, self._release_stream = self._release_stream, None
            release()


class Http2(H2Protocol):
    """grpclib's protocol, given the bytes that were read to recognize it, and held to our limits."""

    def __init__(self, owner: GrpcConnection, first: bytes) -> None:
        h2_config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="ascii",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(owner, Configuration().__for_server__(), h2_config)
        self._owner = owner
        self._first = first
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with what has been read already."""
        self._transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        # grpclib has no setting for it.
        self.connection._connection.update_settings(  # noqa: SLF001
            {SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS}
        )
        self.processor.processors[UnknownFrameReceived] = lambda _event: None  # to be ignored, RFC 9113 5.5
        self._owner.connected(self._transport)
        self.data_received(self._first)

    def data_received(self, data: bytes) -> None:
        """Feed HTTP/2; bytes that break it (h2 raises many kinds) end the connection and nothing else."""
        try:
            super().data_received(data)
        except Exception:  # noqa: BLE001  # see above
            self._transport.abort()

    def pause_writing(self) -> None:
        """The peer does not read: neither answers nor acknowledgements may pile up."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        super().resume_writing()
        if not self._transport.is_closing():
            self._transport.resume_reading()
