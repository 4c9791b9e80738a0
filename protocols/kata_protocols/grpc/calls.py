"""One gRPC call: from grpclib's stream to a handler of the router and back.

Knows grpclib's stream and statuses, not HTTP/2. Differs from ttRPC where gRPC has a convention of its own: an
unknown service or method is UNIMPLEMENTED. Deadlines follow the house: the answer is in time, the handler runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message
from grpclib.const import Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.exceptions import GRPCError
from h2.exceptions import StreamClosedError

from kata_protocols.aio.calls import BAD_PAYLOAD, SHUTTING_DOWN, TIMEOUT
from kata_protocols.aio.reply import PipeReply
from kata_protocols.aio.router import Answer, Call, Endpoint
from kata_protocols.status import StatusError
from kata_protocols.ttrpc.envelope import clean_text, make_status
from kata_protocols.ttrpc.errors import TOO_LARGE
from kata_protocols.ttrpc.frame import MAX_MESSAGE_BYTES


class BytesCodec(CodecBase):
    """Hands unary payloads through as bytes, so that the same errors come out as over ttRPC."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002, RUF100  # grpclib's signature
        """Serialize a message; bytes are serialized already."""
        data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
        return data

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Parse, unless bytes are wanted."""
        return data if message_type is bytes else message_type.FromString(data)


class StatusCodec(StatusDetailsCodecBase):
    """`grpc-status-details-bin`: google.rpc.Status, of which ttRPC's Status is the same on the wire."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        """Serialize a status with its details."""
        return make_status(status.value, message or "", details).SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        """Only servers use this codec."""
        raise NotImplementedError


class Stream(Protocol):
    """What is used of grpclib.server.Stream."""

    metadata: Any

    async def recv_message(self) -> bytes | None:
        """Return the next message, None at the end."""

    async def send_initial_metadata(self) -> None:
        """Send the headers, so that the client knows that its stream is open."""

    async def send_message(self, message: bytes) -> None:
        """Send one message."""


class Host(Protocol):
    """What a call needs of its connection."""

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that may outlive the stream."""

    def report(self, call: Call, error: BaseException) -> None:
        """Tell of a handler's unexpected error."""


class UnaryCall:
    """Runs one handler for one gRPC stream."""

    def __init__(self, host: Host, endpoint: Endpoint, call: Call) -> None:
        self._host = host
        self._endpoint = endpoint
        self._call = call
        self._outcome: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def serve(self, stream: Stream) -> None:
        """Receive the request, call the handler, send the answer or raise its status."""
        payload = await receive_request(stream)
        self._call.metadata = tuple(
            (key, value) for key, value in stream.metadata.items() if isinstance(value, str)
        )
        try:
            await self._respond(stream, self._parse(payload))
        except StatusError as error:
            raise GRPCError(
                Status(int(error.code)), clean_text(error.message), error.details or None
            ) from error
        except (GRPCError, StreamClosedError):
            raise
        except Exception as error:
            self._host.report(self._call, error)
            raise GRPCError(Status.UNKNOWN, clean_text(f"{type(error).__name__}: {error}")) from error

    def _parse(self, payload: bytes) -> Message:
        try:
            return self._endpoint.request_type.FromString(payload)
        except DecodeError:
            name = self._endpoint.request_type.DESCRIPTOR.full_name
            raise StatusError(BAD_PAYLOAD.code, BAD_PAYLOAD.text.format(name=name)) from None

    async def _respond(self, stream: Stream, request: Message) -> None:
        answer = await self._answer(request)
        if isinstance(answer, PipeReply):
            await self._send_pipe(stream, answer)
        else:
            await self._send(stream, answer.SerializeToString())

    async def _send_pipe(self, stream: Stream, reply: PipeReply) -> None:
        """Send a pipe's data through this process: gRPC frames it otherwise than the pipe's owner expects."""
        delivered = False
        try:
            await self._send(stream, reply.payload_head + reply.take())
            delivered = True
        finally:
            reply.finished(delivered)

    async def _send(self, stream: Stream, payload: bytes) -> None:
        if len(payload) > MAX_MESSAGE_BYTES:
            text = TOO_LARGE.text.format(length=len(payload), limit_bytes=MAX_MESSAGE_BYTES)
            raise StatusError(TOO_LARGE.code, text)
        await stream.send_message(payload)

    async def _answer(self, request: Message) -> Answer:
        result: Any = self._endpoint.handler(request, self._call)
        if isinstance(result, Message | PipeReply):
            return result
        return await self._wait(result)

    async def _wait(self, result: Awaitable[Answer]) -> Answer:
        """Wait for the handler, but no longer than the client does."""
        self._task = self._host.start_task(self._settle(result))
        self._task.add_done_callback(lambda _task: self._close(result))
        try:
            async with asyncio.timeout_at(self._call.deadline):
                await asyncio.wait((self._outcome,))
        except TimeoutError:
            self._abandon()
            raise StatusError(*TIMEOUT) from None
        except asyncio.CancelledError:
            self._abandon()
            raise
        return self._outcome.result()

    def _abandon(self) -> None:
        """Nobody hears the answer: what only waits or reads ends, everything else runs on."""
        self._outcome.add_done_callback(discard)
        if self._endpoint.cancel_on_disconnect and self._task is not None:
            self._task.cancel()

    def end_wait(self) -> None:
        """The server shuts down: answer for a handler that only waits or reads."""
        if self._endpoint.cancel_on_disconnect and self._task is not None and not self._outcome.done():
            self._outcome.set_exception(StatusError(*SHUTTING_DOWN))
            self._task.cancel()

    async def _settle(self, result: Awaitable[Answer]) -> None:
        """Put the handler's result or exception into the outcome; the task itself never fails."""
        try:
            answer = await result
        except Exception as error:  # noqa: BLE001  # handlers' code; `serve` maps it
            if not self._outcome.done():
                self._outcome.set_exception(error)
        else:
            if not self._outcome.done():
                self._outcome.set_result(answer)
            elif isinstance(answer, PipeReply):
                answer.finished(delivered=False)

    def _close(self, result: Awaitable[Answer]) -> None:
        """The task has ended, perhaps cancelled before its first step."""
        if isinstance(result, Coroutine):
            result.close()
        if not self._outcome.done():
            self._outcome.set_exception(StatusError(*SHUTTING_DOWN))


async def receive_request(stream: Stream) -> bytes:
    """The request's bytes; grpclib knows no compression, and a client must hear that it is that."""
    try:
        return await stream.recv_message() or b""
    except NotImplementedError:
        raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported") from None


def discard(outcome: asyncio.Future[Answer]) -> None:
    """Look at an outcome that nobody waits for, so that nothing complains, and end a pipe's reply."""
    if outcome.exception() is None:
        answer = outcome.result()
        if isinstance(answer, PipeReply):
            answer.finished(delivered=False)
