"""Streams in the guest: sessions that a reader comes back to, and connections of their own over the real vsock."""

from __future__ import annotations

import asyncio
import random
from hashlib import sha256
from pathlib import Path

import pytest

from kata_host.own_streams import OwnStreams, find_stream_address
from kata_host.sandbox import make_id
from kata_host.session import SessionReader, open_session
from kata_host.spec import ProcessPlan, plan_process
from kata_testing.guest import Guest, plan, run_tool

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

LINES = b"".join(b"%d\n" % number for number in range(1, 100_001))


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_kept_output_is_read_again_over_another_connection(guest: Guest, terminal: bool) -> None:
    async def run() -> list[bytes]:
        seen = []
        async with guest.connect() as sandbox, sandbox.container(plan("sleep", "1000")) as container:
            await container.start()
            script = ProcessPlan(["sh", "-c", "read go; seq 100000"], terminal=terminal)
            process = await container.exec(plan_process(script), make_id())
            caller = sandbox.client.caller
            await open_session(caller, container.container_id, process.exec_id, drop_oldest=True)
            await process.write_stdin(b"\n")
            for _ in range(2):
                async with guest.connect() as again:
                    reader = SessionReader(again.client.caller, container.container_id, process.exec_id)
                    seen.append(b"".join([piece.data async for piece in reader.follow()]))
            assert await process.wait(30) == 0
        return seen

    expected = b"\r\n" + LINES.replace(b"\n", b"\r\n") if terminal else LINES
    assert asyncio.run(run()) == [expected] * 2


def test_streams_travel_on_vsock_connections_of_their_own_and_come_back_equal(guest: Guest) -> None:
    """The real vsock path: the guest's kernel splices between pipes and vsock, the agent tells each port by a token."""
    data = random.Random(1).randbytes(8 << 20)  # noqa: S311 - the same bytes every time

    async def run() -> tuple[int, bytes, bytes]:
        async with asyncio.timeout(120), guest.connect() as sandbox:
            caller = sandbox.client.caller
            with await OwnStreams.open(find_stream_address(guest.address), agent=caller) as streams:
                assert len(set(streams.ports.values())) == 3
                spec = plan("sh", "-c", "cat; echo all of it >&2; exit 7")
                container = await sandbox.create(spec, ports=streams.ports)
                await container.start()

                async def feed() -> None:
                    await streams.write_stdin(data)
                    await streams.close_stdin()

                async def read(stream: str) -> bytes:
                    return b"".join([piece async for piece in streams.read(stream)])

                async with asyncio.TaskGroup() as group:
                    group.create_task(feed())
                    out, err = (group.create_task(read(stream)) for stream in ("stdout", "stderr"))
                status = await container.wait(30)
                await container.remove()
                return status, out.result(), err.result()

    status, out, err = asyncio.run(run())
    assert (status, err) == (7, b"all of it\n")
    assert sha256(out).digest() == sha256(data).digest()


def test_a_terminal_travels_on_vsock_connections_of_its_own(guest: Guest) -> None:
    async def run() -> tuple[int, bytes]:
        async with (
            asyncio.timeout(90),
            guest.connect() as sandbox,
            sandbox.container(plan("sleep", "1000")) as c,
        ):
            await c.start()
            caller = sandbox.client.caller
            address = find_stream_address(guest.address)
            with await OwnStreams.open(address, ("stdin", "stdout"), agent=caller) as streams:
                script = ProcessPlan(["sh", "-c", "read line; seq 2000; exit 3"], terminal=True)
                process = await c.exec(plan_process(script), make_id(), ports=streams.ports)
                await streams.write_stdin(b"word\n")
                out = b"".join([piece async for piece in streams.read("stdout")])
                return await process.wait(30), out

    lines = b"".join(b"%d\r\n" % number for number in range(1, 2001))
    assert asyncio.run(run()) == (3, b"word\r\n" + lines)


def test_the_tool_takes_a_command_s_streams_over_vsock(guest: Guest, tmp_path: Path) -> None:
    done = run_tool(
        "run", "--stdio", "vsock", "--", "sh", "-c", "cat; echo no >&2; exit 5", vm_dir=tmp_path, input=b"in"
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, b"in", b"no\n")
