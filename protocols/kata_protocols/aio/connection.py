"""One ttRPC connection of the server: frames in, handlers called, replies out.

Owns the connection's codec, its transport and its running calls; the tasks themselves belong to the server's
task group, because handlers that must finish outlive their client. Knows nothing of listeners.

A handler that answers at once runs inside the read callback, and all replies of one read leave in one write.
Bounds per connection: FRAMES_PER_TURN frames between two turns of the event loop, MAX_CALLS unfinished calls,
MAX_CALL_BYTES of their requests, MAX_QUEUED_BYTES of replies that the peer has not read. At any of the last
three the server stops reading from that peer until the figure falls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from kata_protocols.aio.reply import PipeReply
from kata_protocols.aio.router import Answer, Call, Endpoint
from kata_protocols.aio.transport import PipeWrite, Transport
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.errors import TOO_LARGE, Fault
from kata_protocols.ttrpc.events import ConnectionEnded, Details, Rejected, RequestReceived
from kata_protocols.ttrpc.frame import MAX_MESSAGE_BYTES
from kata_protocols.ttrpc.state import Role

if TYPE_CHECKING:
    from kata_protocols.aio.server import Server

FRAMES_PER_TURN = 256
MAX_CALLS = 16384
MAX_CALL_BYTES = 64 * 1024 * 1024
MAX_QUEUED_BYTES = 1024 * 1024
LINGER_S = 5.0
PROBE_S = 1.0

TIMEOUT = Fault(Code.DEADLINE_EXCEEDED, "timeout")
BAD_PAYLOAD = Fault(Code.UNKNOWN, "payload does not parse as {name}")
SHUTTING_DOWN = Fault(Code.UNAVAILABLE, "server is shutting down")


class RunningCall:
    """A call whose handler did not answer at once."""

    __slots__ = ("answered", "call", "cancel_on_disconnect", "result", "size", "stream_id", "task", "timer")

    def __init__(
        self, event: RequestReceived, endpoint: Endpoint, call: Call, result: Awaitable[Answer]
    ) -> None:
        self.stream_id = event.stream_id
        self.size = len(event.payload)
        self.cancel_on_disconnect = endpoint.cancel_on_disconnect
        self.call = call
        self.result = result
        self.answered = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class ServerConnection:
    """The server's end of one ttRPC connection."""

    __slots__ = (
        "_call_bytes",
        "_calls",
        "_closing",
        "_codec",
        "_find",
        "_lost",
        "_on_error",
        "_peer",
        "_probe",
        "_server",
        "_transport",
        "_turn",
        "_unread",
    )

    def __init__(self, server: Server, transport: Transport, peer: str) -> None:
        self._server = server
        self._transport = transport
        self._peer = peer
        self._find = server.router.find
        self._on_error = server.on_error
        self._codec = Connection(Role.SERVER)
        self._calls: set[RunningCall] = set()
        self._call_bytes = 0
        self._turn: asyncio.Handle | None = None  # the next turn, when one was not enough
        self._unread = False  # whether the codec may hold whole frames
        self._probe: asyncio.TimerHandle | None = None
        self._closing = False
        self._lost = False

    # Reading

    def on_data(self, data: bytes | memoryview) -> None:
        """Take what the transport read; nothing at all is the peer's end."""
        self._codec.receive_data(data)
        self._take_turn()

    def _take_turn(self) -> None:
        """Handle a bounded number of frames and send their replies in one write."""
        self._turn = None
        next_event = self._codec.next_event
        replies: list[bytes] = []
        reply_bytes = 0
        for _ in range(FRAMES_PER_TURN):
            event = next_event()
            if event is None:
                break
            if isinstance(event, RequestReceived):
                reply = self._begin(event)
            elif isinstance(event, Rejected):
                reply = self._codec.send_rejection(event)
            elif isinstance(event, ConnectionEnded):
                self._transport.write(b"".join(replies))
                self._on_peer_end()
                return
            else:  # data frames of a stream: every method of the house is unary
                continue
            if reply is not None:
                replies.append(reply)
                reply_bytes += len(reply)
                if reply_bytes > MAX_QUEUED_BYTES:
                    break
            elif self._full:
                break
        self._unread = event is not None
        if replies:
            self._transport.write(replies[0] if len(replies) == 1 else b"".join(replies))
        self._pace()

    @property
    def _full(self) -> bool:
        """Whether this peer has as much unfinished here as it may."""
        return (
            len(self._calls) >= MAX_CALLS
            or self._call_bytes > MAX_CALL_BYTES
            or self._transport.queued_bytes > MAX_QUEUED_BYTES
        )

    def _pace(self) -> None:
        """Go on reading, take another turn, or wait until the peer has read or its calls have finished."""
        if self._closing or self._lost or self._turn is not None:
            return
        if self._full:
            self._transport.pause_reading()
            if self._probe is None:
                self._probe = self._server.loop.call_later(PROBE_S, self._probe_peer)
        elif self._unread:
            # The kernel keeps what is unread: the codec never holds more than one read and one frame.
            self._transport.pause_reading()
            self._turn = self._server.loop.call_soon(self._take_turn)
        else:
            self._transport.resume_reading()

    def _probe_peer(self) -> None:
        """While nothing is read, the end of the peer would go unseen: look for it."""
        self._probe = None
        if self._transport.hung_up:
            self._transport.abort()
        else:
            self._pace()

    def on_drained(self) -> None:
        """Everything queued has been sent."""
        self._pace()

    # Calls

    def _begin(self, event: RequestReceived) -> bytes | None:
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
        self._calls.add(running)
        self._call_bytes += running.size
        deadline = running.call.deadline
        if deadline is not None:
            running.timer = self._server.loop.call_at(deadline, self._expire, running)
        running.task = self._server.start_task(self._finish(running))
        running.task.add_done_callback(lambda _task: self._forget(running))

    async def _finish(self, running: RunningCall) -> None:
        """Wait for a handler and send its answer, unless the call has been answered meanwhile."""
        try:
            answer = await running.result
        except asyncio.CancelledError as error:
            if running.task is None or running.task.cancelling():
                raise
            self._answer(running, error)  # the handler's own wait was cancelled
        except Exception as error:  # noqa: BLE001  # as in _begin
            self._answer(running, error)
        else:
            self._answer(running, answer)

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
        self._calls.discard(running)
        self._call_bytes -= running.size
        if self._closing and not self._calls:
            self._transport.close()
        else:
            self._pace()

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

    # The end

    def _on_peer_end(self) -> None:
        """The peer sends no more: what is queued may still be read by it, for a while."""
        self._transport.close()
        if not self._transport.closed:
            self._server.loop.call_later(LINGER_S, self._transport.abort)
        self._abandon_calls()

    def on_lost(self, _error: OSError | None) -> None:
        """The socket is closed."""
        self._abandon_calls()
        self._server.forget(self)

    def _abandon_calls(self) -> None:
        """Cancel what only waits for this client; the rest finishes, unheard."""
        self._lost = True
        self._stop_turns()
        for running in list(self._calls):
            running.answered = True
            if running.cancel_on_disconnect and running.task is not None:
                running.task.cancel()

    def _stop_turns(self) -> None:
        for handle in (self._turn, self._probe):
            if handle is not None:
                handle.cancel()
        self._turn = self._probe = None

    def begin_shutdown(self) -> None:
        """Take no more calls, end those that only wait, close when the others have answered."""
        if self._closing or self._lost:
            return
        self._closing = True
        self._transport.pause_reading()
        self._stop_turns()
        for running in list(self._calls):
            if running.cancel_on_disconnect and running.task is not None:
                if not running.answered:
                    running.answered = True
                    self._transport.write(self._fail(running.stream_id, *SHUTTING_DOWN))
                running.task.cancel()
        if not self._calls:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()
