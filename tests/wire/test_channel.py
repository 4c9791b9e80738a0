"""The serial channel: any number of connections over one line, none of which another can stop; it always comes back."""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import tty
from pathlib import Path

import pytest

from kata_protocols.aio import mux as mux_module
from kata_protocols.aio.address import SerialAddress
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.dial import connect_once
from kata_protocols.aio.mux import Mux
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.yamux.frame import DATA, PING, SYN, WINDOW, pack
from kata_protocols.yamux.line import MARK
from kata_testing.channel import (
    echo,
    line_to,
    open_client,
    open_stream,
    read_all,
    send_and_read_back,
    serve_line,
)
from kata_testing.streaming import EVENTS, Streamer
from kata_testing.streaming import ask as ask_events
from kata_testing.wire import CHECK, VERSION, Health, outcome, run_async, served

REQUEST = health_pb2.CheckRequest()


async def check(client: Client) -> None:
    assert (await client.call(CHECK, REQUEST)).status == 1


class Echo:
    """The other end of a channel, where each stream is sent back; `held` ones are not even read."""

    def __init__(self, group: asyncio.TaskGroup, *, max_streams: int = 64) -> None:
        ours, theirs = socket.socketpair()
        self.held: list[socket.socket] = []
        self.hold = False
        self.holds = asyncio.Event()
        self._group = group
        self.guest = Mux(theirs.detach(), client=False, on_stream=self._accept, max_streams=max_streams)
        self.host = Mux(ours.detach(), client=True)

    def _accept(self, sock: socket.socket) -> None:
        if self.hold:
            self.held.append(sock)
            self.holds.set()
        else:
            self._group.create_task(echo(sock))

    def close(self) -> None:
        for sock in self.held:
            sock.close()
        self.host.close()
        self.guest.close()


def test_many_clients_call_over_one_line_at_once() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with line_to(here.server) as mux:
                clients = [open_client(mux) for _ in range(100)]
                async with asyncio.TaskGroup() as group:
                    for client in clients * 3:
                        group.create_task(check(client))
                for client in clients:
                    await client.aclose()

    run_async(scenario())


def test_server_streams_pass_through() -> None:
    async def scenario() -> None:
        async with served(Streamer().router()) as here:
            with line_to(here.server) as mux:
                async with open_client(mux) as client:
                    texts = [event.cursor async for event in client.stream(EVENTS, ask_events("count 5"))]
                    assert texts == ["0", "1", "2", "3", "4"]

    run_async(scenario())


def test_each_end_of_a_connection_ends_alone() -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            here = Echo(group)
            with open_stream(here.host) as sock:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert await read_all(sock) == b"hello"
            here.close()

    run_async(scenario())


def test_bytes_arrive_as_they_were_whatever_they_are() -> None:
    """Marks among them, in both directions, on several streams at once."""

    async def one(mux: Mux, seed: int) -> None:
        choice = random.Random(seed)  # noqa: S311 - the same each time
        data = b"".join(
            choice.choice([MARK, MARK[:5], choice.randbytes(997), b"\0" * 700]) for _ in range(900)
        )
        assert await send_and_read_back(mux, data) == data

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            here = Echo(group)
            async with asyncio.TaskGroup() as users:
                for seed in range(6):
                    users.create_task(one(here.host, seed))
            here.close()

    run_async(scenario())


def test_stream_that_nobody_reads_stops_no_other() -> None:
    """It takes its window and what its socket holds, and then nothing more, while others go on."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            here = Echo(group)
            here.hold = True
            with open_stream(here.host) as slow:
                await here.holds.wait()
                here.hold = False
                stuck = group.create_task(outcome(loop.sock_sendall(slow, bytes(16 * 1024 * 1024))))
                for _ in range(20):
                    with open_stream(here.host) as quick:
                        await loop.sock_sendall(quick, b"y" * 300_000)
                        quick.shutdown(socket.SHUT_WR)
                        assert len(await read_all(quick)) == 300_000
                assert not stuck.done()
                stuck.cancel()
            here.close()

    run_async(scenario())


def test_connection_too_many_is_closed_and_the_others_stay() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            here = Echo(group, max_streams=3)
            socks = [open_stream(here.host) for _ in range(3)]
            for sock in socks:
                await loop.sock_sendall(sock, b"x")
                assert await loop.sock_recv(sock, 1) == b"x"
            with open_stream(here.host) as refused:
                assert await loop.sock_recv(refused, 1) == b""
            await loop.sock_sendall(socks[0], b"z")
            assert await loop.sock_recv(socks[0], 1) == b"z"
            for sock in socks:
                sock.close()
            here.close()

    run_async(scenario())


def test_agent_that_restarts_is_met_again() -> None:
    """Its successor takes the same port over, in the middle of whatever was said; waiting clients are let in."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        async with served(Health().router()) as here:
            first = serve_line(here.server, theirs.dup())
            host = Mux(ours.detach(), client=True)
            client = open_client(host)
            await check(client)
            first._port.close()
            async with asyncio.TaskGroup() as group:
                lost = group.create_task(outcome(client.call(CHECK, REQUEST)))
                await asyncio.sleep(0)
                second = serve_line(here.server, theirs)
            assert isinstance(lost.result(), ConnectionLostError)
            await client.aclose()
            async with open_client(host) as client:
                await check(client)
            host.close()
            second.close()
            first._close_streams()

    run_async(scenario())


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"\0",
        b"garbage that is no frame at all",
        pack(DATA, 0, 1, 5000) + b"half a frame",
        pack(WINDOW, SYN, 1, 0),
        MARK,
        MARK + pack(PING, SYN, 0, 5)[:9],
        bytes(700_000),
    ],
)
def test_what_was_left_on_the_line_is_no_matter(left: bytes) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(0)
        async with served(Health().router()) as here:
            async with asyncio.TaskGroup() as group:
                sent = group.create_task(asyncio.get_running_loop().sock_sendall(ours, left))
                guest = serve_line(here.server, theirs)
                ours.settimeout(0)
                await sent
            host = Mux(ours.detach(), client=True)
            async with open_client(host) as client:
                await check(client)
            host.close()
            guest.close()

    run_async(scenario())


def test_peer_that_breaks_the_protocol_is_met_anew() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with line_to(here.server) as mux:
                async with open_client(mux) as client:
                    await check(client)
                    os.write(mux._port._fd, pack(DATA, 0, 0, 1))
                    with pytest.raises(ConnectionLostError):
                        await client.call(CHECK, REQUEST)
                async with open_client(mux) as client:
                    await check(client)

    run_async(scenario())


def test_a_serial_address_is_one_connection_that_has_the_channel(tmp_path: Path) -> None:
    path = tmp_path / "channel"

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as vmm:
            vmm.bind(str(path))
            vmm.listen(1)
            vmm.settimeout(0)
            async with served(Health().router()) as here:
                for _ in range(2):
                    async with asyncio.TaskGroup() as group:
                        connecting = group.create_task(connect_once(SerialAddress(str(path))))
                        line, _ = await asyncio.get_running_loop().sock_accept(vmm)
                        guest = serve_line(here.server, line)
                    async with Client(connecting.result()) as client:
                        await check(client)
                    assert await guest.wait_ended() == "the channel has ended"

    run_async(scenario())


def test_a_terminal_is_a_channel_and_hanging_up_is_not_its_end() -> None:
    """The port's other side goes and comes back, which only a character device can tell: here a pseudo terminal."""

    async def scenario() -> None:
        master, slave = os.openpty()
        tty.setraw(slave)
        states: list[str] = []
        parted = asyncio.Event()

        def tell(state: str) -> None:
            states.append(state)
            if state.startswith("parted"):
                parted.set()

        async with served(Health().router()) as here:
            guest = Mux(
                slave, client=False, on_state=tell,
                on_stream=lambda sock: here.server.serve_connection(sock, "serial"),
            )  # fmt: skip
            host = Mux(master, client=True)
            async with open_client(host) as client:
                await check(client)
            host.close()
            await parted.wait()
            for _ in range(5):  # the first look finds what is known already
                await asyncio.sleep(0)
            edges = guest._port._edges
            assert edges is not None
            assert select.select([edges], [], [], 0)[0] == [], "the port keeps the event loop busy"
            assert not guest.closed
            guest.close()
        assert states[:2] == ["joined", "parted: the other side has hung up"]

    run_async(scenario())


def test_status_errors_are_those_of_any_connection() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with line_to(here.server) as mux:
                async with open_client(mux) as client:
                    with pytest.raises(StatusError) as caught:
                        await client.call(VERSION, health_pb2.CheckRequest(service="fail"))
                    assert caught.value.code is Code.FAILED_PRECONDITION

    run_async(scenario())


def noise(choice: random.Random) -> bytes:
    """Anything, frames that mean nothing, and frames that nearly do."""
    pieces = []
    for _ in range(choice.randrange(1, 30)):
        length = choice.choice([0, 1, 200, 40_000, 300_000, 2**32 - 1])
        header = pack(choice.randrange(4), choice.randrange(16), choice.randrange(8), length)
        pieces.append(choice.choice([header, header + bytes(min(length, 500)), choice.randbytes(40), MARK]))
    return b"".join(pieces)


def test_whatever_a_host_writes_the_next_one_is_served() -> None:
    """On one line, without an end between them: only what is said tells one host from another."""
    choice = random.Random(int(os.environ.get("KATA_TEST_SEED", "5")))  # noqa: S311 - the same each time

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        async with served(Health().router()) as here:
            guest = serve_line(here.server, theirs)
            ours.settimeout(0)
            for _ in range(60):
                await loop.sock_sendall(ours, noise(choice))
                host = Mux(os.dup(ours.fileno()), client=True)
                async with open_client(host) as client:
                    await check(client)
                host._port.close()
                host._close_streams()
            ours.close()
            assert await guest.wait_ended() == "the channel has ended"

    run_async(scenario())


def test_readers_that_leave_too_much_lying_are_cut_off_the_slowest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mux_module, "MAX_HELD_BYTES", 200_000)  # two leave half a window each, or more

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            here = Echo(group)
            here.hold = True
            slow = []
            for _ in range(8):  # each leaves its window lying, less what its socket takes
                sock = open_stream(here.host)
                slow.append(sock)
                group.create_task(outcome(loop.sock_sendall(sock, bytes(4_000_000))))
            while len(slow) > 1:
                await wait_for_one_end(slow)
            here.hold = False
            with open_stream(here.host) as quick:
                await loop.sock_sendall(quick, b"still here")
                assert await loop.sock_recv(quick, 100) == b"still here"
            here.close()
        for sock in slow:
            sock.close()

    run_async(scenario())


async def wait_for_one_end(socks: list[socket.socket]) -> None:
    """Until one of them was cut off; that one is closed and taken out."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[socket.socket] = loop.create_future()
    for sock in socks:
        loop.add_reader(sock.fileno(), lambda sock=sock: ended.done() or ended.set_result(sock))
    found = await ended
    for sock in socks:
        loop.remove_reader(sock.fileno())
    socks.remove(found)
    found.close()


def test_clients_that_gave_up_waiting_make_room_for_others() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        async with served(Health().router()) as here:
            host = Mux(ours.detach(), client=True, max_streams=4)
            for _ in range(20):
                open_stream(host).close()  # nobody answers yet
            kept = [open_stream(host) for _ in range(4)]
            with open_stream(host) as refused:
                assert refused.recv(1) == b""
            guest = serve_line(here.server, theirs)
            async with Client(kept.pop()) as client:
                await check(client)
            for sock in kept:
                sock.close()
            host.close()
            guest.close()

    run_async(scenario())


def test_what_was_said_before_the_end_is_heard_though_nothing_can_be_said_any_more() -> None:
    """The other end answers and goes, while this one still has much to send."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            here = Echo(group)
            here.hold = True
            with open_stream(here.host) as sock:
                await here.holds.wait()
                sending = group.create_task(outcome(loop.sock_sendall(sock, bytes(4_000_000))))
                await asyncio.sleep(0)
                here.held[0].sendall(b"the last word")
                here.held.pop().close()
                await here.guest.settle()
                here.guest.close()
                assert await loop.sock_recv(sock, 100) == b"the last word"
                await sending
            assert await here.host.wait_ended()  # reset, or ended: as the kernel sees it
            here.close()

    run_async(scenario())
