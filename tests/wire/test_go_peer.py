"""containerd's Go library on the other end of the wire: its client with our server, our client with its server.

`peers/go` is a Go module of its own, locked by its go.sum; Go 1.19 (Debian 12) builds it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from kata_agent.errors import AgentError, TimedOut
from kata_agent.hub.client import Hub
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.dial import dial
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.mux import Mux
from kata_protocols.aio.server import serve
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.yamux.line import MARK
from kata_testing.channel import echo, open_client, send_and_read_back
from kata_testing.streaming import EVENTS, SANDBOX, Streamer
from kata_testing.streaming import ask as ask_events
from kata_testing.wire import CHECK, VERSION, Health, outcome, run_async

pytestmark = pytest.mark.requires("go")

SOURCE = Path(__file__).parent / "peers" / "go"
BUILD_TIMEOUT_S = 300
CHECKS = [
    "check",
    "unknown service",
    "unknown method",
    "not supported",
    "deadline",
    "metadata",
    "concurrent",
    "large",
    "stream",
]


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built program; Go's own cache makes the second build quick."""
    program = tmp_path_factory.mktemp("go") / "peer"
    done = subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", str(program), "."],
        cwd=SOURCE,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(program)


def test_the_go_client_is_served(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        router = Health().router(cancel_on_disconnect=True)
        streamer = Streamer()
        router.add(SANDBOX, "Events", streamer.events)
        path = str(tmp_path / "s")
        with open_listener(UnixAddress(path)) as listener:
            async with serve(router, [listener]):
                process = await asyncio.create_subprocess_exec(
                    peer, "client", path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
                output, problems = await process.communicate()
                await streamer.wait_idle()
        assert process.returncode == 0, problems.decode()
        assert streamer.finished >= 4
        assert [line.removeprefix("ok ") for line in output.decode().splitlines()] == CHECKS

    run_async(scenario())


@asynccontextmanager
async def go_server(peer: str, path: str) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        peer, "server", path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with Client(await dial(UnixAddress(path), timeout_s=30)) as client:
            yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    assert process.returncode == 0


def test_gos_confidential_data_hub_serves_our_client_of_it(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "s")
        hub = Hub(api_timeout_s=60.0, pull_timeout_s=60.0, socket_path=path)
        hasty = Hub(api_timeout_s=60.0, pull_timeout_s=0.3, socket_path=path)
        async with go_server(peer, path):
            await hub.pull_image("registry/app:1", "/bundle")
            assert await hub.unseal("variable X", b"sealed.secret") == b"secret"
            assert await hub.get_resource("default/key/1") == b"of kbs://default/key/1"
            assert await hub.secure_mount("BlockDevice", {"a": "b"}, (), "/x") == "/mounted/BlockDevice"
            with pytest.raises(
                AgentError, match=r"pull image refuse: .* PERMISSION_DENIED: the image is not"
            ):
                await hub.pull_image("refuse", "/bundle")
            with pytest.raises(
                TimedOut, match=r"pull image slow: waited 0\.3 s \(agent\.image_pull_timeout\)"
            ):
                await hasty.pull_image("slow", "/bundle")

    run_async(scenario())


def ask(word: str) -> health_pb2.CheckRequest:
    return health_pb2.CheckRequest(service=word)


def test_our_client_is_served_by_go(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with go_server(peer, str(tmp_path / "s")) as client:
            assert (await client.call(CHECK, ask(""), timeout_s=30)).status == 1
            answer = await client.call(VERSION, ask("metadata"), metadata=(("traceparent", "00-7"),))
            assert answer.grpc_version == "00-7"
            assert (await client.call(VERSION, ask("deadline"), timeout_s=40)).grpc_version == "true true"
            with pytest.raises(StatusError) as caught:
                await client.call(VERSION, ask("fail"))
            assert (caught.value.code, caught.value.message) == (Code.FAILED_PRECONDITION, "not now")

    run_async(scenario())


def test_our_deadline_and_many_calls_on_gos_server(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with go_server(peer, str(tmp_path / "s")) as client:
            with pytest.raises(StatusError) as caught:
                await client.call(VERSION, ask("wait"), timeout_s=0.05)
            assert caught.value.code is Code.DEADLINE_EXCEEDED
            words = [f"echo {number}" for number in range(200)]
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(client.call(VERSION, ask(word))) for word in words]
            assert [call.result().grpc_version for call in calls] == words
            large = "x" * (4 * 1024 * 1024 - 100)
            assert (await client.call(VERSION, ask(large))).grpc_version == large

    run_async(scenario())


def test_gos_end_fails_our_waiting_calls(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            async with go_server(peer, str(tmp_path / "s")) as client:
                call = group.create_task(outcome(client.call(VERSION, ask("wait"))))
                await client.call(CHECK, ask(""))
                await client.aclose()
            assert isinstance(await call, ConnectionLostError)

    run_async(scenario())


def test_gos_streams_reach_our_client_and_are_given_up(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with go_server(peer, str(tmp_path / "s")) as client:
            async with aclosing(client.stream(EVENTS, ask_events("count 1000"), timeout_s=20)) as events:
                assert [event.cursor async for event in events] == [str(number) for number in range(1000)]
            async with aclosing(client.stream(EVENTS, ask_events("fail 1"), timeout_s=20)) as events:
                assert (await anext(events)).cursor == "0"
                with pytest.raises(StatusError, match="not now"):
                    await anext(events)
            async with aclosing(client.stream(EVENTS, ask_events("hang 2"), timeout_s=20)) as events:
                assert (await anext(events)).cursor == "0"
            assert (await client.call(CHECK, ask(""), timeout_s=30)).status == 1

    run_async(scenario())


# Over a channel: hashicorp's yamux


@contextmanager
def channels(path: str, on_stream: Callable[[socket.socket], object]) -> Iterator[None]:
    """The agent's end of each connection to a socket, which stands for the VMM's."""
    muxes: list[Mux] = []
    with open_listener(UnixAddress(path)) as listener:

        def accept() -> None:
            muxes.append(Mux(listener.accept()[0].detach(), client=False, on_stream=on_stream))

        asyncio.get_running_loop().add_reader(listener, accept)
        try:
            yield
        finally:
            asyncio.get_running_loop().remove_reader(listener)
            for mux in muxes:
                mux.close()


async def run_peer(peer: str, mode: str, path: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        peer, mode, path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    assert b"[ERR]" not in problems, problems.decode()
    return [line.removeprefix("ok ") for line in output.decode().splitlines()]


def test_gos_yamux_client_is_served_by_our_end_of_a_channel(peer: str, tmp_path: Path) -> None:
    """As Kata 1.x's proxy would: it knows yamux alone, and speaks first."""

    async def scenario() -> None:
        router = Health().router(cancel_on_disconnect=True)
        router.add(SANDBOX, "Events", Streamer().events)
        path = str(tmp_path / "channel")
        async with serve(router, []) as server:
            with channels(path, lambda sock: server.serve_connection(sock, "serial")):
                for _ in range(2):
                    assert await run_peer(peer, "yamux-client", path) == [*CHECKS, "ping"]

    run_async(scenario())


def test_bytes_on_gos_streams_come_back_as_they_were(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "channel")
        async with asyncio.TaskGroup() as group:
            with channels(path, lambda sock: group.create_task(echo(sock))):
                assert await run_peer(peer, "yamux-pump", path) == ["pump"]

    run_async(scenario())


def test_gos_yamux_server_serves_our_client(peer: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "channel")
        async with go_channel(peer, "yamux-server", path) as mux:
            clients = [open_client(mux) for _ in range(20)]
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(check_all(client))
            for client in clients:
                await client.aclose()

    async def check_all(client: Client) -> None:
        assert (await client.call(CHECK, ask(""))).status == 1
        assert (await client.call(VERSION, ask("x" * 3_000_000))).grpc_version == "x" * 3_000_000

    run_async(scenario())


def test_our_streams_to_gos_echo_come_back_as_they_were(peer: str, tmp_path: Path) -> None:
    """Marks among the data, and the end of one side before the other's."""
    data = (MARK + os.urandom(999) + MARK[:-1]) * 2000

    async def pump(mux: Mux) -> None:
        assert await send_and_read_back(mux, data) == data

    async def scenario() -> None:
        async with (
            go_channel(peer, "yamux-echo", str(tmp_path / "channel")) as mux,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(6):
                group.create_task(pump(mux))

    run_async(scenario())


@asynccontextmanager
async def go_channel(peer: str, mode: str, path: str) -> AsyncIterator[Mux]:
    """The host's end of a channel, with Go's at the other."""
    process = await asyncio.create_subprocess_exec(peer, mode, path, stdin=asyncio.subprocess.PIPE)
    try:
        mux = Mux((await dial(UnixAddress(path), timeout_s=30)).detach(), client=True)
        yield mux
        mux.close()
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    assert process.returncode == 0
