"""gRPC on the same port: a real peer, mixed company, a preface that dribbles, and no `ssl`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.server import serve
from kata_protocols.aio.sniff import HTTP2_PREFACE
from kata_protocols.services import Method
from kata_protocols.status import Code, StatusError
from kata_testing.pipes import READ, Reader, Reply
from kata_testing.streaming import SANDBOX, Streamer
from kata_testing.wire import CHECK, VERSION, Health, outcome, run_async, served

PEER = Path(__file__).parent / "peers" / "grpc_client.py"


async def run_peer(*command: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def test_grpcios_client_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        health = Health()
        errors: list[Any] = []
        streamer = Streamer()
        router = health.router(cancel_on_disconnect=True)
        router.add(SANDBOX, "Events", streamer.events)
        with open_listener(UnixAddress(str(tmp_path / "s"))) as listener:
            async with serve(
                router,
                [listener],
                on_error=lambda *what: errors.append(what),
            ):
                status, output = await run_peer(sys.executable, str(PEER), str(tmp_path / "s"))
                await streamer.wait_idle()
        assert status == 0, output
        assert streamer.finished >= 3
        assert output.split()[1::2] == (
            [
                "check",
                "metadata",
                "statuses",
                "details",
                "malformed",
                "deadline",
                "concurrent",
                "large",
                "stream",
                "reflection",
            ]
        )
        assert [where for where, _ in errors] == ["grpc.Health/Version from unix"]
        # At most one: where the deadline passes before the request has come, no handler begins.
        assert health.waiting == health.cancelled <= 1, "the handler whose deadline passed only waited"

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 5, 23])
def test_a_preface_that_dribbles_is_answered_in_http2(size: int) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here, await here.client() as client:
            with here.raw() as raw:
                for start in range(0, len(HTTP2_PREFACE), size):
                    await raw.send(HTTP2_PREFACE[start : start + size])
                    await client.call(CHECK, CHECK.request_type(), timeout_s=30)  # ttRPC beside it
                await raw.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                header = await raw.read_exactly(9)
                assert (header[3], header[5:]) == (4, bytes(4)), "the server's settings frame"

    run_async(scenario())


def test_a_silent_http2_peer_does_not_delay_the_end() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(30):
            async with served(Health().router(), grace_s=1000) as here:
                with here.raw() as raw:
                    await raw.send(HTTP2_PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                    await raw.read_exactly(9)

    run_async(scenario())


NO_SSL = """
import sys
sys.modules["ssl"] = sys.modules["_ssl"] = None
import kata_protocols.aio.server
assert not [name for name in sys.modules if name.startswith(("grpclib", "h2", "multidict"))]
import kata_protocols.grpc.server
"""


def test_the_adapter_works_without_ssl_and_costs_nothing_before_it_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NO_SSL], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


class GrpcClient:
    """grpclib's client in this process, for scenes that need the server's state to be looked at."""

    def __init__(self, address: UnixAddress) -> None:
        self.channel = Channel(path=address.path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.channel.close()

    def method(self, method: Method) -> UnaryUnaryMethod[Any, Any]:
        path = f"/{method.service}/{method.name}"
        return UnaryUnaryMethod(self.channel, path, method.request_type, method.response_type)


WAIT = VERSION.request_type(service="wait")


@pytest.mark.parametrize("cancel_on_disconnect", [True, False])
def test_a_grpc_client_that_vanishes_ends_only_what_waits_for_it(cancel_on_disconnect: bool) -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router(cancel_on_disconnect=cancel_on_disconnect)) as here:
            async with asyncio.TaskGroup() as group, GrpcClient(here.address) as client:
                group.create_task(outcome(client.method(VERSION)(WAIT)))
                await health.wait_started(1)
            if not cancel_on_disconnect:
                async with GrpcClient(here.address) as client:
                    await client.method(CHECK)(CHECK.request_type())
                assert not health.ended.is_set()
                health.release.set()
            await health.ended.wait()
            assert (health.cancelled, health.finished) == ((1, 0) if cancel_on_disconnect else (0, 1))
        assert here.errors == []

    run_async(scenario())


def test_the_end_of_the_server_answers_grpc_waits_and_lets_others_finish() -> None:
    async def scenario() -> None:
        health = Health()
        async with (
            asyncio.TaskGroup() as group,
            served(health.router(cancel_on_disconnect=True)) as here,
            GrpcClient(here.address) as client,
        ):
            call = group.create_task(outcome(client.method(VERSION)(WAIT)))
            await health.wait_started(1)
            here.server.begin_shutdown()
            error = await call
        assert isinstance(error, GRPCError)
        assert (error.status, error.message) == (Status.UNAVAILABLE, "server is shutting down")

    run_async(scenario())


@pytest.mark.parametrize("later", [False, True])
def test_a_pipes_reply_reaches_a_grpc_client(later: bool) -> None:
    async def scenario() -> None:
        data = os.urandom(100_000)
        reader = Reader(Reply(data), Reply(b"", StatusError(Code.INTERNAL, "eof")), later=later)
        async with served(reader.router()) as here, GrpcClient(here.address) as client:
            answer = await client.method(READ)(READ.request_type())
            assert answer.data == data
            with pytest.raises(GRPCError) as caught:
                await client.method(READ)(READ.request_type())
            assert (caught.value.status, caught.value.message) == (Status.INTERNAL, "eof")
        assert [reply.ends for reply in reader.prepared] == [[True], [False]]
        reader.close()

    run_async(scenario())
