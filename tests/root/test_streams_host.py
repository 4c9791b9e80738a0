"""The host library's own streams and session readers, against the real agent."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from kata_host.connect import connect
from kata_host.own_streams import OwnStreams, find_stream_address
from kata_host.sandbox import Container
from kata_host.sandbox_service import SandboxService
from kata_host.session import SessionReader, open_session
from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, native_agent
from kata_testing.passed import environment
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

PROCESS = {"args": ["sh", "-c", "cat; echo err >&2"], "cwd": "/", "env": ["PATH=/bin"]}


def test_a_process_of_the_library_has_streams_on_connections_of_its_own(tmp_path):
    async def body():
        async with native_agent(tmp_path, environment=environment(tmp_path)) as agent:
            container = await agent.run("sleep", "1000")
            with await OwnStreams.open(f"unix://{tmp_path}/streams.sock") as streams:
                async with await connect(agent.address) as client:
                    process = await Container(client, container).exec(PROCESS, ports=streams.ports)
                    await streams.write_stdin(b"there and back")
                    await streams.close_stdin()
                    out = b"".join([data async for data in streams.read("stdout")])
                    err = b"".join([data async for data in streams.read("stderr")])
                    assert (out, err, await process.wait()) == (b"there and back", b"err\n", 0)

    run_async(body())


def test_a_device_that_does_not_tell_the_port_is_refused_by_name(tmp_path):
    async def body():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{tmp_path}/vsock")
            listener.listen()
            listener.setblocking(False)

            async def answer(line: bytes) -> None:
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    assert await loop.sock_recv(connection, 64) == b"CONNECT 1027\n"
                    await loop.sock_sendall(connection, line)

            async def ports_after(line: bytes) -> dict[str, int]:
                async with asyncio.TaskGroup() as group:
                    group.create_task(answer(line))
                    with await OwnStreams.open(f"hvsock://{tmp_path}/vsock:1027", ["stdout"]) as streams:
                        return streams.ports

            assert await ports_after(b"OK 5001\n") == {"stdout_port": 5001}
            with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="does not tell.*name an agent to ask")):
                await ports_after(b"OK 1027\n")

    run_async(body())


@asynccontextmanager
async def untelling_device(tmp_path: Path) -> AsyncIterator[str]:
    """A hybrid vsock device that answers with the guest's port; gives the address of the listener behind it.

    The agent behind it sees ports of the device's own, as a guest does.
    """
    ports = itertools.count(70001)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"CONNECT 1027\n"
        inner = socket.socket(socket.AF_UNIX)
        inner.bind(f"\0kata-device-{os.getpid()}:{next(ports)}")
        inner.connect(f"{tmp_path}/streams.sock")
        back, forth = await asyncio.open_connection(sock=inner)
        writer.write(b"OK 1027\n")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(carry(reader, forth))
                group.create_task(carry(back, writer))
        finally:
            for end in (forth, writer):
                end.close()
            served.put_nowait(None)

    served: asyncio.Queue[None] = asyncio.Queue()
    async with await asyncio.start_unix_server(serve, f"{tmp_path}/vsock"):
        yield f"hvsock://{tmp_path}/vsock:1027"
        for _ in range(3):
            await served.get()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything, and its end."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def test_where_the_device_does_not_tell_the_port_the_agent_does(tmp_path):
    async def body():
        async with native_agent(tmp_path, environment=environment(tmp_path)) as agent:
            container = await agent.run("sleep", "1000")
            async with untelling_device(tmp_path) as address, await connect(agent.address) as client:
                with await OwnStreams.open(address, agent=client.caller) as streams:
                    assert set(streams.ports.values()) == {70001, 70002, 70003}
                    process = await Container(client, container).exec(PROCESS, ports=streams.ports)
                    await streams.write_stdin(b"there and back")
                    await streams.close_stdin()
                    out = b"".join([data async for data in streams.read("stdout")])
                    err = b"".join([data async for data in streams.read("stderr")])
                    assert (out, err, await process.wait()) == (b"there and back", b"err\n", 0)

    run_async(body())


def test_a_name_is_asked_for_with_a_token_that_nobody_guesses(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent, await connect(agent.address) as client:
            service = SandboxService(client.caller)
            with pytest.raises(StatusError, match="token of 15 bytes: 16 to 64 that nobody can guess"):
                await service.name_stream(b"t" * 15)
            with pytest.raises(StatusError, match="does not listen for streams, start it with"):
                await service.name_stream(b"t" * 16)

    run_async(body())


def test_an_address_of_a_guest_leads_to_its_streams():
    assert str(find_stream_address("hvsock:///run/vm.sock:1024")) == "hvsock:///run/vm.sock:1027"
    assert str(find_stream_address("vsock://3:1024")) == "vsock://3:1027"
    with pytest.raises(ValueError, match="own"):
        find_stream_address("unix:///run/kata.sock")


def test_a_session_reader_does_not_notice_that_the_agent_was_killed(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read go; seq 300000")
            expected = b"".join(b"%d\n" % n for n in range(1, 300_001))
            async with await connect(agent.address, reconnect=True) as client:
                await open_session(client.caller, container, ring_bytes=64 << 10)
                await agent.call("WriteStdin", container_id=container, data=b"\n")
                reader = SessionReader(client.caller, container)
                seen, kills = b"", 0
                async for piece in reader.follow():
                    assert piece.missing == 0
                    seen += piece.data
                    if len(seen) > (kills + 1) * 500_000:
                        kills += 1
                        plain = await agent.client()
                        os.kill(agent.agent_pid(), signal.SIGKILL)
                        await plain.wait_closed()
                        await agent.check()
                assert seen == expected
                assert kills >= 2
                # another reader comes late: what was released is a gap, what is kept it reads again
                late = [piece async for piece in SessionReader(client.caller, container).follow()]
                assert late[0].offset == late[0].missing > len(expected) - (128 << 10)
                assert b"".join(piece.data for piece in late) == expected[late[0].missing :]

    run_async(body(), 60)


def test_two_readers_follow_the_same_output(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", "read go; seq 1000")
            expected = b"".join(b"%d\n" % n for n in range(1, 1001))
            async with await connect(agent.address) as client:
                await open_session(client.caller, container, drop_oldest=True)

                async def read() -> bytes:
                    reader = SessionReader(client.caller, container)
                    return b"".join([piece.data async for piece in reader.follow()])

                async with asyncio.TaskGroup() as group:
                    readers = [group.create_task(read()) for _ in range(2)]
                    await agent.call("WriteStdin", container_id=container, data=b"\n")
                assert [task.result() for task in readers] == [expected] * 2

    run_async(body())


def test_the_tool_prints_what_is_kept_as_often_as_asked(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", "read go; seq 1000; echo wrong >&2")

            async def logs(*arguments: str) -> tuple[bytes, bytes]:
                command = (sys.executable, "-m", "kata_host.cli.main", "logs", *arguments, container)
                tool = await asyncio.create_subprocess_exec(
                    *command, "--server-address", f"unix://{agent.address.path}",
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )  # fmt: skip
                return await tool.communicate()

            refused = await logs()
            assert refused[0] == b""
            assert b"no session" in refused[1]
            assert await logs("--keep") == (b"", b"")
            await agent.call("WriteStdin", container_id=container, data=b"\n")
            expected = b"".join(b"%d\n" % n for n in range(1, 1001))
            assert await logs("--follow") == (expected, b"")
            assert await logs("--since", "3000") == (expected[3000:], b"")
            assert await logs("--stderr") == (b"wrong\n", b"")

    run_async(body(), 60)
