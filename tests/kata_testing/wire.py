"""A real server on a socket of its own, and the handlers and raw clients that wire tests use with it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

from kata_protocols import services
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.client import Client
from kata_protocols.aio.dial import connect_once
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.server import Call, Router, Server, serve
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.events import Event
from kata_protocols.ttrpc.state import Role

HEALTH = services.HEALTH_SERVICE
CHECK = HEALTH.methods["Check"]
VERSION = HEALTH.methods["Version"]

TEST_TIMEOUT_S = 60.0
_numbers = itertools.count()
T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T], timeout_s: float = TEST_TIMEOUT_S) -> T:
    """Run a test's coroutine, with a deadline so that a hang is a failure."""

    async def bounded() -> T:
        async with asyncio.timeout(timeout_s):
            return await work

    return asyncio.run(bounded())


def fresh_address() -> UnixAddress:
    """An abstract unix address that nobody else uses."""
    return UnixAddress(f"\0kata-test-{os.getpid()}-{next(_numbers)}")


async def outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, or the exception that it ended with: for tasks of a group that may fail."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001  # it is the result here
        return error


class Health:
    """grpc.Health whose Version does what the request's `service` says; what happened is recorded.

    `wait`: until `release` is set (`waiting` counts, `finished` and `cancelled` record the end). `fail`: a status
    with details. `raise`: an exception. `metadata`: the call's metadata. `grow X`: more than was sent. Else: echo.
    """

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.started = asyncio.Condition()
        self.waiting = 0
        self.finished = 0
        self.cancelled = 0
        self.ended = asyncio.Event()
        self.calls: list[Call] = []

    def router(self, *, cancel_on_disconnect: bool = False) -> Router:
        router = Router()
        router.add(HEALTH, "Check", self.check)
        router.add(HEALTH, "Version", self.version, cancel_on_disconnect=cancel_on_disconnect)
        router.add_service(services.AGENT_SERVICE)
        return router

    def check(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    def version(self, request: health_pb2.CheckRequest, call: Call) -> Any:
        self.calls.append(call)
        word = request.service
        if word == "fail":
            raise StatusError(Code.FAILED_PRECONDITION, "not now", (("type.test/x", b"\x01"),))
        if word == "raise":
            raise RuntimeError("on purpose")
        if word == "metadata":
            return health_pb2.VersionCheckResponse(
                grpc_version=",".join(f"{k}={v}" for k, v in call.metadata)
            )
        if word.startswith("grow "):
            return health_pb2.VersionCheckResponse(grpc_version=word, agent_version=word)
        if word == "wait":
            return self._wait()
        return self._echo(word)

    async def _echo(self, word: str) -> health_pb2.VersionCheckResponse:
        return health_pb2.VersionCheckResponse(grpc_version=word)

    async def _wait(self) -> health_pb2.VersionCheckResponse:
        try:
            async with self.started:
                self.waiting += 1
                self.started.notify_all()
            await self.release.wait()
            self.finished += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended.set()
        return health_pb2.VersionCheckResponse(grpc_version="waited")

    async def wait_cancelled(self, count: int) -> None:
        while self.cancelled < count:
            self.ended.clear()
            await self.ended.wait()

    async def wait_started(self, count: int) -> None:
        async with self.started:
            await self.started.wait_for(lambda: self.waiting >= count)


class Errors(list[tuple[str, BaseException]]):
    """What a server's `on_error` was told."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()

    def __call__(self, where: str, error: BaseException) -> None:
        self.append((where, error))
        self.arrived.set()


class Served(NamedTuple):
    """A running server: where it listens, itself, and what its `on_error` was told."""

    address: UnixAddress
    server: Server
    errors: Errors

    async def client(self) -> Client:
        return Client(await connect_once(self.address))

    @contextmanager
    def raw(self) -> Iterator[RawClient]:
        """A blocking-free raw socket to the server, with a codec to read its answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(0)
            sock.connect(self.address.path)
            yield RawClient(sock)


class RawClient:
    """Sends any bytes and reads answers one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.codec = Connection(Role.CLIENT)
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def wait_writable(self) -> None:
        writable = asyncio.Event()
        self._loop.add_writer(self.sock, writable.set)
        try:
            await writable.wait()
        finally:
            self._loop.remove_writer(self.sock)

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self.sock, 65536)

    async def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self._loop.sock_recv(self.sock, size - len(data))
            if not piece:
                raise EOFError(f"{len(data)} of {size} bytes")
            data += piece
        return data

    async def event(self) -> Event | None:
        """The next event from the server; ConnectionEnded when it closed."""
        while True:
            event = self.codec.next_event()
            if event is not None:
                return event
            self.codec.receive_data(await self.receive())


def check_frame(codec: Connection) -> bytes:
    """A Check request by `codec`."""
    return codec.send_request(HEALTH.name, "Check", b"")[1]


@asynccontextmanager
async def served(router: Router, *, grace_s: float = 30.0) -> AsyncIterator[Served]:
    """Serve `router` on a fresh address; errors are kept for the test to look at."""
    address = fresh_address()
    errors = Errors()
    listener = open_listener(address)
    try:
        async with serve(router, [listener], on_error=errors, grace_s=grace_s) as server:
            yield Served(address, server, errors)
    finally:
        listener.close()
