"""gRPC on the same port: a real peer, mixed company, a preface that dribbles, and no `ssl`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.server import serve
from kata_protocols.aio.sniff import HTTP2_PREFACE
from kata_testing.wire import CHECK, Health, run_async, served

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
        with open_listener(UnixAddress(str(tmp_path / "s"))) as listener:
            async with serve(
                health.router(cancel_on_disconnect=True),
                [listener],
                on_error=lambda *what: errors.append(what),
            ):
                status, output = await run_peer(sys.executable, str(PEER), str(tmp_path / "s"))
        assert status == 0, output
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
                "reflection",
            ]
        )
        assert [where for where, _ in errors] == ["grpc.Health/Version from unix"]
        assert (health.waiting, health.cancelled) == (1, 1), "the handler whose deadline passed only waited"

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 5, 23])
def test_a_preface_that_dribbles_is_answered_in_http2(size: int) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here, await here.client() as client:
            with here.raw() as raw:
                for start in range(0, len(HTTP2_PREFACE), size):
                    await raw.send(HTTP2_PREFACE[start : start + size])
                    await client.call(CHECK, CHECK.request_type(), timeout_s=5)  # ttRPC beside it
                await raw.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                header = await raw.read_exactly(9)
                assert (header[3], header[5:]) == (4, bytes(4)), "the server's settings frame"

    run_async(scenario())


def test_a_silent_http2_peer_does_not_delay_the_end() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(3):
            async with served(Health().router()) as here:
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
