"""A ttRPC client on a blocking socket: the least a client can cost, so that figures show the server.

Knows frames and the two envelopes; no threads, no event loop. Not for programs: those use `kata_host`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from struct import Struct
from typing import Self, TypeVar

from google.protobuf.message import Message

from kata_protocols.gen import ttrpc_pb2

HEADER = Struct(">IIBB")
REQUEST, RESPONSE = 1, 2
AGENT = "grpc.AgentService"
HEALTH = "grpc.Health"
SANDBOX = "kata.agent.v1.Sandbox"

M = TypeVar("M", bound=Message)


class CallFailed(Exception):
    """The server answered with a status that is not OK."""

    def __init__(self, method: str, code: int, text: str) -> None:
        super().__init__(f"{method}: status {code}: {text}")
        self.code = code
        self.text = text


def encode_call(stream_id: int, service: str, method: str, payload: bytes) -> bytes:
    """A request as one frame."""
    body = ttrpc_pb2.Request(service=service, method=method, payload=payload).SerializeToString()
    return HEADER.pack(len(body), stream_id, REQUEST, 0) + body


class Client:
    """One connection. Owns the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._next_stream = 1
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, service: str, method: str, request: Message, answer: type[M]) -> M:
        """One call, answered. CallFailed for a bad status, TimeoutError past the socket's deadline."""
        stream = self.send(service, method, request)
        got, payload = self.receive(method)
        if got != stream:
            raise ConnectionError(f"{method}: answer for stream {got}, expected {stream}")
        return answer.FromString(payload)

    def send(self, service: str, method: str, request: Message) -> int:
        """Send a call and do not wait: its stream id, for the answer to be told by."""
        stream = self._next_stream
        self._next_stream += 2
        self._socket.sendall(encode_call(stream, service, method, request.SerializeToString()))
        return stream

    def receive(self, method: str = "call") -> tuple[int, bytes]:
        """The next answer, whichever call it belongs to: stream id and payload."""
        length, stream, kind, _ = HEADER.unpack(self._take(HEADER.size))
        response = ttrpc_pb2.Response.FromString(self._take(length))
        if kind != RESPONSE:
            raise ConnectionError(f"{method}: frame of kind {kind} instead of an answer")
        if response.status.code:
            raise CallFailed(method, response.status.code, response.status.message)
        return stream, response.payload

    def _take(self, size: int) -> bytes:
        pieces = [self._buffer]
        missing = size - len(self._buffer)
        while missing > 0:
            piece = self._socket.recv(max(missing, 65536))
            if not piece:
                raise ConnectionError("the server closed the connection")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._buffer = data[size:]
        return data[:size]


def connect(address: str, deadline_s: float) -> socket.socket:
    """A connected socket for `unix:///PATH` or `hvsock://PATH:PORT`, each of whose operations has a deadline."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(deadline_s)
        if address.startswith("hvsock://"):
            path, _, port = address.removeprefix("hvsock://").rpartition(":")
            connection.connect(path)
            _shake_hands(connection, port)
        else:
            connection.connect(address.removeprefix("unix://"))
    except BaseException:
        connection.close()
        raise
    return connection


def _shake_hands(connection: socket.socket, port: str) -> None:
    connection.sendall(f"CONNECT {port}\n".encode())
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionRefusedError(f"nobody listens on guest port {port}")
        line += byte
    if not line.startswith(b"OK "):
        raise ConnectionRefusedError(f"guest port {port}: {line!r}")


def drain(connection: socket.socket, size: int) -> Iterable[bytes]:
    """Pieces of exactly `size` bytes in all."""
    while size > 0:
        piece = connection.recv(min(size, 1 << 18))
        if not piece:
            raise ConnectionError("the server closed the connection")
        size -= len(piece)
        yield piece
