"""The calls of one ttRPC connection: from a request to a handler, from its answer to a reply.

Owns which calls run and what each still owes its client; their tasks belong to the server's task group, because
handlers that must finish outlive their client. Knows nothing of reading, pacing or the connection's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from kata_protocols.aio.reply import PipeReply
from kata_protocols.aio.router import Answer, Call, Endpoint, Messages
from kata_protocols.aio.transport import PipeWrite, Transport
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.errors import TOO_LARGE, Fault
from kata_protocols.ttrpc.events import Details, Rejected, RequestReceived
from kata_protocols.ttrpc.frame import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from kata_protocols.aio.server import Server

TIMEOUT = Fault(Code.DEADLINE_EXCEEDED, "timeout")
BAD_PAYLOAD = Fault(Code.UNKNOWN, "payload does not parse as {name}")
SHUTTING_DOWN = Fault(Code.UNAVAILABLE, "server is shutting down")

# A stream waits while its connection has more than this unsent, and lets others run after so many messages.
STREAM_QUEUED_BYTES = 256 * 1024
MESSAGES_PER_TURN = 64


class RunningCall:
    """A call whose handler did not answer at once."""

    __slots__ = ("answered", "call", "cancel_on_disconnect", "result", "size", "stream_id", "task", "timer")

    def __init__(
        self, event: RequestReceived, endpoint: Endpoint, call: Call, result: Awaitable[Answer] | Messages
    ) -> None:
        self.stream_id = event.stream_id
        self.size = len(event.payload)
        self.cancel_on_disconnect = endpoint.cancel_on_disconnect or endpoint.server_streaming
        self.call = call
        self.result = result
        self.answered = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Calls:
    """The calls of one connection. `on_finished` is called after each that did not answer at once."""

    __slots__ = (
        "_codec",
        "_drained",
        "_find",
        "_on_error",
        "_on_finished",
        "_peer",
        "_running",
        "_server",
        "_streams",
        "_transport",
        "request_bytes",
    )

    def __init__(
        self,
        server: Server,
        codec: Connection,
        transport: Transport,
        peer: str,
        on_finished: Callable[[], None],
    ) -> None:
        self._server = server
        self._find = server.router.find
        self._on_error = server.on_error
        self._codec = codec
        self._transport = transport
        self._peer = peer
        self._on_finished = on_finished
        self._running: set[RunningCall] = set()
        self._streams: dict[int, RunningCall] = {}
        self._drained: asyncio.Event | None = None  # made when a stream first has to wait
        self.request_bytes = 0  # of the calls that run

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, event: RequestReceived) -> bytes | None:
        """Run a call's handler; return the reply if it is there already."""
        timeout_nano = event.timeout_nano
        deadline = self._server.loop.time() + timeout_nano * 1e-9 if timeout_nano > 0 else None
        call = Call(event.service, event.method, event.metadata, deadline, self._peer)
        try:
            endpoint = self._find(event.service, event.method)
            try:
                request = endpoint.request_type.FromString(event.payload)
            except DecodeError:
                name = endpoint.request_type.DESCRIPTOR.full_name
                return self._fail(event.stream_id, BAD_PAYLOAD.code, BAD_PAYLOAD.text.format(name=name))
            result = endpoint.handler(request, call)
            if isinstance(result, Message):
                return self._codec.send_response(event.stream_id, result.SerializeToString())
            if isinstance(result, PipeReply):
                return self._send_pipe(event.stream_id, call, result)
        except Exception as error:  # noqa: BLE001  # the one place where a handler's error becomes a status
            return self._fail_with(event.stream_id, call, error)
        self._run_later(RunningCall(event, endpoint, call, result))
        return None

    def _run_later(self, running: RunningCall) -> None:
        self._running.add(running)
        self.request_bytes += running.size
        deadline = running.call.deadline
        if deadline is not None:
            running.timer = self._server.loop.call_at(deadline, self._expire, running)
        result = running.result
        if isinstance(result, Awaitable):
            work = self._finish(running, result)
        else:
            self._streams[running.stream_id] = running
            work = self._stream(running, result)
        running.task = self._server.start_task(work)
        running.task.add_done_callback(lambda _task: self._forget(running))

    async def _finish(self, running: RunningCall, result: Awaitable[Answer]) -> None:
        """Wait for a handler and send its answer, unless the call has been answered meanwhile."""
        try:
            answer = await result
        except asyncio.CancelledError as error:
            if running.task is None or running.task.cancelling():
                raise
            self._answer(running, error)  # the handler's own wait was cancelled
        except Exception as error:  # noqa: BLE001  # as in _begin
            self._answer(running, error)
        else:
            self._answer(running, answer)

    async def _stream(self, running: RunningCall, messages: Messages) -> None:
        """Send a stream's messages as fast as the peer takes them, then its end or its status."""
        try:
            async with aclosing(messages):
                await self._send_messages(running, messages)
        except Exception as error:  # noqa: BLE001  # as in begin
            self._answer(running, error)
        else:
            if not running.answered:
                running.answered = True
                self._transport.write(self._codec.send_end(running.stream_id))

    async def _send_messages(self, running: RunningCall, messages: Messages) -> None:
        count = 0
        async for message in messages:
            payload = message.SerializeToString()
            if len(payload) > MAX_MESSAGE_BYTES:
                text = TOO_LARGE.text.format(length=len(payload), limit_bytes=MAX_MESSAGE_BYTES)
                raise StatusError(TOO_LARGE.code, text)
            self._transport.write(self._codec.send_data(running.stream_id, payload))
            while self._transport.queued_bytes > STREAM_QUEUED_BYTES:
                self._drained = self._drained or asyncio.Event()
                self._drained.clear()
                await self._drained.wait()
            count += 1
            if count % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # a stream that always has more must not hold up the others

    def on_drained(self) -> None:
        """Everything queued has been sent."""
        if self._drained is not None:
            self._drained.set()

    def cancel_stream(self, stream_id: int) -> None:
        """The client wants no more of a stream; it hears nothing more of it either."""
        running = self._streams.get(stream_id)
        if running is not None and not running.answered and running.task is not None:
            running.answered = True
            self._codec.forget(stream_id)
            running.task.cancel()

    def _answer(self, running: RunningCall, answer: Answer | BaseException) -> None:
        if running.answered:
            if isinstance(answer, PipeReply):
                answer.finished(delivered=False)
            return
        running.answered = True
        try:
            reply = self._encode_answer(running, answer)
        except Exception as error:  # noqa: BLE001  # an answer that is no message, or does not serialize
            reply = self._fail_with(running.stream_id, running.call, error)
        if reply is not None:
            self._transport.write(reply)

    def _encode_answer(self, running: RunningCall, answer: Answer | BaseException) -> bytes | None:
        if isinstance(answer, BaseException):
            return self._fail_with(running.stream_id, running.call, answer)
        if isinstance(answer, PipeReply):
            return self._send_pipe(running.stream_id, running.call, answer)
        return self._codec.send_response(running.stream_id, answer.SerializeToString())

    def _forget(self, running: RunningCall) -> None:
        """A call's task has ended, perhaps before its first step: then its coroutine is still to be closed."""
        if isinstance(running.result, Coroutine):
            running.result.close()
        if running.timer is not None:
            running.timer.cancel()
        self._running.discard(running)
        self._streams.pop(running.stream_id, None)
        self.request_bytes -= running.size
        self._on_finished()

    def _expire(self, running: RunningCall) -> None:
        """Answer in time. What only waits or reads ends; all else runs on: half a container is worse than waste."""
        if not running.answered:
            running.answered = True
            self._transport.write(self._fail(running.stream_id, *TIMEOUT))
            if running.cancel_on_disconnect and running.task is not None:
                running.task.cancel()

    def _send_pipe(self, stream_id: int, call: Call, reply: PipeReply) -> bytes | None:
        """Queue a pipe's reply; bytes are returned when it cannot be sent as it is."""
        head = self._codec.send_response_head(stream_id, reply.payload_head, reply.length)
        if head is None:
            reply.finished(delivered=False)
            length = len(reply.payload_head) + reply.length
            text = TOO_LARGE.text.format(length=length, limit_bytes=MAX_MESSAGE_BYTES)
            return self._fail(stream_id, TOO_LARGE.code, text)

        def answer_instead(error: Exception) -> bytes:
            code, message, _ = self._status_of(call, error)
            return self._codec.send_rejection(Rejected(stream_id, code, message))

        self._transport.write_pipe(PipeWrite(reply, head, answer_instead))
        return None

    def _fail(self, stream_id: int, code: Code, message: str) -> bytes:
        return self._codec.send_error(stream_id, code, message)

    def _fail_with(self, stream_id: int, call: Call, error: BaseException) -> bytes:
        return self._codec.send_error(stream_id, *self._status_of(call, error))

    def _status_of(self, call: Call, error: BaseException) -> tuple[Code, str, Details]:
        if isinstance(error, StatusError):
            return error.code, error.message, error.details
        self._on_error(f"{call.service}/{call.method} from {call.peer}", error)
        return Code.UNKNOWN, f"{type(error).__name__}: {error}", ()

    def abandon(self) -> None:
        """The client is gone: cancel what only waits for it; the rest finishes, unheard."""
        for running in list(self._running):
            running.answered = True
            if running.cancel_on_disconnect and running.task is not None:
                running.task.cancel()

    def end_waits(self, *, silently: bool = False) -> None:
        """The server shuts down: answer for what only waits, unless `silently`, and cancel it."""
        for running in list(self._running):
            if running.cancel_on_disconnect and running.task is not None:
                if not running.answered:
                    running.answered = True
                    if silently:
                        self._codec.forget(running.stream_id)
                    else:
                        self._transport.write(self._fail(running.stream_id, *SHUTTING_DOWN))
                running.task.cancel()
