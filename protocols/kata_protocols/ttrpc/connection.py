"""One end of a ttRPC connection, without IO.

Feed what arrives to `receive_data`, take events from `next_event` until it returns None, send what the
`send_*` methods return. The owner bounds what is unread by taking all events before it feeds more.
Document: spec of the host side, 2.1-2.6; the agent's own rules, 3.2.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from kata_protocols.gen import ttrpc_pb2
from kata_protocols.status import Code
from kata_protocols.ttrpc import errors, frame
from kata_protocols.ttrpc.envelope import encode_failure, encode_request, success_head
from kata_protocols.ttrpc.events import (
    ConnectionEnded,
    DataReceived,
    Details,
    Event,
    Metadata,
    Rejected,
    RequestReceived,
    ResponseReceived,
    StreamCancelled,
)
from kata_protocols.ttrpc.state import Role, Side, Streams

MAX_STREAMS = 65536

_parse_request = ttrpc_pb2.Request.FromString
_parse_response = ttrpc_pb2.Response.FromString
_pack_header = frame.HEADER.pack


class Connection:
    """The protocol state of one end."""

    __slots__ = ("_ended", "_frames", "_limit_bytes", "_role", "_streams")

    def __init__(
        self,
        role: Role,
        *,
        limit_bytes: int = frame.MAX_MESSAGE_BYTES,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._role = role
        self._limit_bytes = limit_bytes
        self._frames = frame.FrameReader(limit_bytes)
        self._streams = Streams(max_streams)
        self._ended = False

    @property
    def open_streams(self) -> int:
        """How many calls are open."""
        return len(self._streams)

    @property
    def pending_bytes(self) -> int:
        """How many received bytes wait to become events."""
        return self._frames.pending_bytes

    # Receiving

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; none at all means that it will send no more."""
        if data:
            self._frames.receive(data)
        else:
            self._ended = True

    def next_event(self) -> Event | None:
        """Return the next event, or None when more bytes are needed."""
        while (item := self._frames.next_frame()) is not None:
            event = self._read_frame(item) if isinstance(item, frame.Frame) else self._report_oversized(item)
            if event is not None:
                return event
        if self._ended:
            self._ended = False
            return ConnectionEnded(truncated=self._frames.inside_frame)
        return None

    def _read_frame(self, item: frame.Frame) -> Event | None:
        """Make an event of a frame; None for what a receiver ignores."""
        if item.kind == frame.REQUEST and self._role is Role.SERVER:
            return self._read_request(item)
        if item.kind == frame.RESPONSE and self._role is Role.CLIENT:
            return self._read_response(item)
        if item.kind == frame.DATA:
            return self._read_data(item)
        return None

    def _read_request(self, item: frame.Frame) -> RequestReceived | Rejected:
        stream_id, _, flags, data = item
        if not stream_id & 1:
            return self._reject(stream_id, errors.EVEN_STREAM)
        if stream_id in self._streams:
            return self._reject(stream_id, errors.STREAM_IN_USE)
        if self._streams.full:
            return self._reject(stream_id, errors.TOO_MANY_STREAMS)
        try:
            request = _parse_request(data)
        except DecodeError:
            return self._reject(stream_id, errors.BAD_REQUEST)
        more = bool(flags & frame.REMOTE_OPEN)
        self._streams.open(stream_id, Side.SENDING if more else Side.UNARY)
        pairs = request.metadata
        return RequestReceived(
            stream_id,
            request.service,
            request.method,
            request.payload,
            request.timeout_nano,
            tuple((pair.key, pair.value) for pair in pairs) if pairs else (),
            more,
        )

    def _read_response(self, item: frame.Frame) -> ResponseReceived | Rejected | None:
        if not self._streams.discard(item.stream_id):
            return None  # late: its caller has given up
        try:
            response = _parse_response(item.data)
        except DecodeError:
            return self._reject(item.stream_id, errors.BAD_RESPONSE)
        status = response.status
        return ResponseReceived(
            item.stream_id,
            status.code,
            status.message,
            tuple((detail.type_url, detail.value) for detail in status.details),
            response.payload,
        )

    def _read_data(self, item: frame.Frame) -> DataReceived | StreamCancelled | Rejected | None:
        stream_id, _, flags, data = item
        if stream_id not in self._streams:
            return self._reject(stream_id, errors.UNKNOWN_STREAM) if self._role is Role.SERVER else None
        if not self._streams.may_receive_data(stream_id):
            # The peer had closed its side. Closing it again cannot mean anything but that it has gone away.
            ended = flags & frame.REMOTE_CLOSED and flags & frame.NO_DATA
            return StreamCancelled(stream_id) if ended and self._role is Role.SERVER else None
        closed = bool(flags & frame.REMOTE_CLOSED)
        if closed:
            self._streams.close_peer(stream_id)
        return DataReceived(stream_id, b"" if flags & frame.NO_DATA else data, closed)

    def _report_oversized(self, item: frame.Oversized) -> Rejected | None:
        if self._role is Role.SERVER:
            if item.kind not in (frame.REQUEST, frame.DATA):
                return None
        elif not self._streams.discard(item.stream_id):
            return None
        return self._reject(item.stream_id, errors.TOO_LARGE, item.length)

    def _reject(self, stream_id: int, fault: errors.Fault, length: int = 0) -> Rejected:
        text = fault.text.format(
            length=length, limit_bytes=self._limit_bytes, max_streams=self._streams.max_streams
        )
        return Rejected(stream_id, fault.code, text)

    # Sending, as a server

    def send_response(self, stream_id: int, payload: bytes) -> bytes:
        """End a call with success. A payload beyond the limit becomes a status that says so."""
        self._streams.close(stream_id)
        size = len(payload)
        head = success_head(size)
        size += len(head)
        if size > self._limit_bytes:
            return self._too_large(stream_id, size)
        return _pack_header(size, stream_id, frame.RESPONSE, 0) + head + payload

    def send_response_head(self, stream_id: int, payload_head: bytes, tail_bytes: int) -> bytes | None:
        """End a call whose payload is `payload_head` and `tail_bytes` more, which the caller sends itself.

        None means that the whole would exceed the limit: the stream is still open, answer it otherwise.
        """
        head = success_head(len(payload_head) + tail_bytes) + payload_head
        size = len(head) + tail_bytes
        if size > self._limit_bytes:
            return None
        self._streams.close(stream_id)
        return _pack_header(size, stream_id, frame.RESPONSE, 0) + head

    def send_error(self, stream_id: int, code: Code, message: str, details: Details = ()) -> bytes:
        """End a call with a status that is not OK."""
        self._streams.close(stream_id)
        return self._failure(stream_id, code, message, details)

    def send_end(self, stream_id: int) -> bytes:
        """End a server's stream with success, as containerd's library does: an empty last data frame."""
        data = self.send_data(stream_id, b"", last=True)
        self._streams.close(stream_id)
        return data

    def send_rejection(self, rejected: Rejected) -> bytes:
        """Answer a frame that was rejected; open streams are not touched."""
        return self._failure(rejected.stream_id, rejected.code, rejected.message, ())

    def _failure(self, stream_id: int, code: Code, message: str, details: Details) -> bytes:
        data = encode_failure(code, message, details)
        if len(data) > self._limit_bytes:
            return self._too_large(stream_id, len(data))
        return frame.encode_frame(stream_id, frame.RESPONSE, 0, data)

    def _too_large(self, stream_id: int, length: int) -> bytes:
        code, text = errors.TOO_LARGE
        message = text.format(length=length, limit_bytes=self._limit_bytes)
        return frame.encode_frame(stream_id, frame.RESPONSE, 0, encode_failure(code, message, ()))

    # Sending, as a client

    def send_request(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout_nano: int = 0,
        metadata: Metadata = (),
        more: bool | None = None,
    ) -> tuple[int, bytes]:
        """Begin a call; return its stream id and the bytes to send.

        `more` None makes a unary call; True and False open a stream on which data frames follow or do not.
        """
        data = encode_request(service, method, payload, timeout_nano, metadata)
        if len(data) > self._limit_bytes:
            raise errors.MessageTooLargeError(
                errors.TOO_LARGE.text.format(length=len(data), limit_bytes=self._limit_bytes)
            )
        stream_id = self._streams.open_next(Side.UNARY if more is None else Side.SENDING)
        flags = 0
        if more is not None:
            flags = frame.REMOTE_OPEN if more else frame.REMOTE_CLOSED
            if more and not payload:
                flags |= frame.NO_DATA
        return stream_id, frame.encode_frame(stream_id, frame.REQUEST, flags, data)

    def forget(self, stream_id: int) -> None:
        """Give a call up: a late answer to it will be dropped."""
        self._streams.discard(stream_id)

    def send_cancel(self, stream_id: int) -> bytes:
        """Give a server's stream up and say so; a peer that does not know the word ignores or refuses it."""
        self._streams.discard(stream_id)
        return frame.encode_frame(stream_id, frame.DATA, frame.REMOTE_CLOSED | frame.NO_DATA, b"")

    # Sending, either way

    def send_data(self, stream_id: int, data: bytes, *, last: bool = False) -> bytes:
        """Send one message on a stream; `last` with no data closes this side of it."""
        if stream_id not in self._streams:
            raise errors.LocalProtocolError(f"stream {stream_id} is not open")
        if len(data) > self._limit_bytes:
            raise errors.MessageTooLargeError(
                errors.TOO_LARGE.text.format(length=len(data), limit_bytes=self._limit_bytes)
            )
        flags = frame.REMOTE_CLOSED if last else 0
        if not data:
            flags |= frame.NO_DATA
        return frame.encode_frame(stream_id, frame.DATA, flags, data)
