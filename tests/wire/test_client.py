"""The client: what its callers see of deadlines, late answers and lost connections; dialing and listening."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_protocols.aio.address import HybridAddress, UnixAddress, VsockAddress
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.dial import HandshakeError, connect_once, dial, shake_hands
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.server import serve
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.events import RequestReceived
from kata_protocols.ttrpc.frame import RESPONSE, encode_frame
from kata_protocols.ttrpc.state import Role
from kata_testing.wire import CHECK, VERSION, Health, fresh_address, outcome, run_async


class Puppet:
    """The other end of a client's socket, played by the test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.codec = Connection(Role.SERVER)
        self.loop = asyncio.get_running_loop()

    async def request(self) -> RequestReceived:
        while True:
            event = self.codec.next_event()
            if isinstance(event, RequestReceived):
                return event
            assert event is None
            self.codec.receive_data(await self.loop.sock_recv(self.sock, 65536))

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)


@asynccontextmanager
async def puppet() -> AsyncIterator[tuple[Client, Puppet]]:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(0)
        async with Client(ours) as client:
            yield client, Puppet(theirs)


def ask(word: str = "") -> health_pb2.CheckRequest:
    return health_pb2.CheckRequest(service=word)


class TestCalls:
    def test_the_deadline_is_sent_along_and_kept_when_the_server_is_silent(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                call = group.create_task(outcome(client.call(CHECK, ask(), timeout_s=0.05)))
                request = await server.request()
                assert request.timeout_nano == 50_000_000
                error = await call
                assert isinstance(error, StatusError)
                assert (error.code, error.message) == (Code.DEADLINE_EXCEEDED, "timeout")

        run_async(scenario())

    def test_a_late_answer_is_dropped_and_the_next_call_gets_its_own(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                call = group.create_task(outcome(client.call(VERSION, ask(), timeout_s=0.02)))
                late = await server.request()
                await call
                second = group.create_task(client.call(VERSION, ask()))
                request = await server.request()
                await server.send(
                    server.codec.send_response(late.stream_id, b"\x0a\x04late")
                    + server.codec.send_response(request.stream_id, b"\x0a\x03own")
                )
                assert (await second).grpc_version == "own"

        run_async(scenario())

    def test_a_cancelled_call_is_forgotten(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                call = group.create_task(client.call(VERSION, ask()))
                request = await server.request()
                call.cancel()
                await asyncio.wait((call,))
                await server.send(server.codec.send_response(request.stream_id, b""))
                second = group.create_task(client.call(VERSION, ask()))
                await server.send(server.codec.send_response((await server.request()).stream_id, b""))
                await second

        run_async(scenario())

    def test_a_lost_connection_is_no_status_and_fails_every_caller(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                calls = [group.create_task(outcome(client.call(CHECK, ask()))) for _ in range(3)]
                await server.request()
                server.sock.close()
                for call in calls:
                    assert isinstance(await call, ConnectionLostError)
                assert client.closed
                with pytest.raises(ConnectionLostError, match="connection"):
                    await client.call(CHECK, ask())

        run_async(scenario())

    def test_an_answer_that_came_before_the_end_is_not_lost_to_a_failing_send(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                first = group.create_task(outcome(client.call(VERSION, ask())))
                request = await server.request()
                server.sock.send(server.codec.send_response(request.stream_id, b"\x0a\x03own"))
                server.sock.close()
                # Runs before the loop looks at the socket again: its send finds the peer gone.
                second = group.create_task(outcome(client.call(VERSION, ask())))
                assert (await first).grpc_version == "own"
                assert isinstance(await second, ConnectionLostError)

        run_async(scenario())

    def test_a_status_code_that_nobody_knows_is_unknown(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                call = group.create_task(outcome(client.call(CHECK, ask())))
                await server.request()
                await server.send(encode_frame(1, RESPONSE, 0, b"\x0a\x03\x08\xe7\x07"))
                error = await call
                assert isinstance(error, StatusError)
                assert error.code is Code.UNKNOWN

        run_async(scenario())

    def test_an_absent_status_is_success(self) -> None:
        async def scenario() -> None:
            async with puppet() as (client, server), asyncio.TaskGroup() as group:
                call = group.create_task(client.call(CHECK, ask()))
                await server.request()
                await server.send(encode_frame(1, RESPONSE, 0, b"\x12\x02\x08\x01"))
                assert (await call).status == 1

        run_async(scenario())


async def play_multiplexer(listener: socket.socket, answers: list[bytes]) -> list[bytes]:
    """A VMM's hybrid socket: answer each connection's line, and behind the one that is OK be the guest's agent."""
    loop = asyncio.get_running_loop()
    lines = []
    for answer in answers:
        sock, _ = await loop.sock_accept(listener)
        with sock:
            sock.settimeout(0)
            lines.append(await loop.sock_recv(sock, 64))
            await loop.sock_sendall(sock, answer)
            if answer.startswith(b"OK"):
                agent = Puppet(sock)
                request = await agent.request()
                await agent.send(agent.codec.send_response(request.stream_id, b"\x08\x01"))
    return lines


class TestDialing:
    def test_the_hybrid_handshake_is_retried_until_the_guest_listens(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            path = str(tmp_path / "vm.vsock")
            answers = [b"", b"refused\n", b"OK 1073741824\n"]
            with open_listener(UnixAddress(path)) as listener:
                async with asyncio.TaskGroup() as group:
                    playing = group.create_task(play_multiplexer(listener, answers))
                    async with Client(await dial(HybridAddress(path, 1024), timeout_s=30)) as client:
                        assert (await client.call(CHECK, ask(), timeout_s=30)).status == 1
            assert playing.result() == [b"CONNECT 1024\n"] * 3

        run_async(scenario())

    @pytest.mark.parametrize(
        ("answer", "words"),
        [(b"", "nobody listens there yet"), (b"NO\n", "is not OK"), (b"x" * 300, "is not OK")],
    )
    def test_a_handshake_that_fails_says_why(self, answer: bytes, words: str) -> None:
        async def scenario() -> None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.settimeout(0)
                theirs.send(answer)
                theirs.shutdown(socket.SHUT_WR)
                with pytest.raises(HandshakeError, match=words):
                    await shake_hands(ours, 1024, verb="connect")
                assert theirs.recv(64) == b"connect 1024\n"

        run_async(scenario())

    def test_the_handshake_reads_nothing_of_the_guests(self) -> None:
        async def scenario() -> None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.settimeout(0)
                theirs.send(b"OK 5\nguest's own")
                await shake_hands(ours, 1024)
                assert ours.recv(64) == b"guest's own"

        run_async(scenario())

    def test_dialing_goes_on_until_somebody_listens(self) -> None:
        async def scenario() -> None:
            address = fresh_address()
            async with asyncio.TaskGroup() as group:
                dialing = group.create_task(dial(address, timeout_s=30))
                await asyncio.sleep(0)
                with open_listener(address):
                    (await dialing).close()

        run_async(scenario())

    def test_dialing_in_vain_names_address_time_and_last_reason(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            with pytest.raises(
                TimeoutError, match=r"unix:///.*/none: no connection within 0.05 s .*No such file"
            ):
                await dial(UnixAddress(str(tmp_path / "none")), timeout_s=0.05)

        before = len(os.listdir("/proc/self/fd"))
        run_async(scenario())
        assert len(os.listdir("/proc/self/fd")) == before

    def test_what_waiting_does_not_mend_fails_at_once(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            (tmp_path / "file").write_text("")
            with pytest.raises(OSError, match=r"connect unix:///.*/file/x: Not a directory"):
                await dial(UnixAddress(str(tmp_path / "file" / "x")), timeout_s=60)

        run_async(scenario())


class TestListening:
    def test_a_left_over_socket_file_is_replaced(self, tmp_path: Path) -> None:
        address = UnixAddress(str(tmp_path / "s"))
        open_listener(address).close()
        assert os.path.exists(address.path)
        with open_listener(address), socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)

    def test_a_live_one_is_left_alone(self, tmp_path: Path) -> None:
        address = UnixAddress(str(tmp_path / "s"))
        with open_listener(address), pytest.raises(OSError, match="another process listens there, end it"):
            open_listener(address)

    def test_another_kind_of_file_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("precious")
        with pytest.raises(OSError, match="is no socket and was left alone, remove it"):
            open_listener(UnixAddress(str(tmp_path / "s")))
        assert (tmp_path / "s").read_text() == "precious"

    def test_a_hybrid_address_is_the_vmms(self) -> None:
        with pytest.raises(OSError, match="listen on hvsock:///a:1: the VMM listens there") as caught:
            open_listener(HybridAddress("/a", 1))
        assert caught.value.errno == errno.EOPNOTSUPP

    @pytest.mark.requires("vsock-loopback")
    def test_vsock_through_the_kernels_loopback(self) -> None:
        async def scenario() -> None:
            with open_listener(VsockAddress(1, 10240)) as listener:
                async with (
                    serve(Health().router(), [listener]),
                    Client(await connect_once(VsockAddress(1, 10240))) as client,
                ):
                    await client.call(CHECK, ask(), timeout_s=30)

        run_async(scenario())


def test_a_socket_path_that_is_too_long_is_told_by_its_name(tmp_path: Path) -> None:
    path = str(tmp_path / ("s" * 120))
    with pytest.raises(OSError, match=f"listen on unix://{path}: AF_UNIX path too long") as caught:
        open_listener(UnixAddress(path))
    assert caught.value.errno == errno.ENAMETOOLONG
