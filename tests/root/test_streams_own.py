"""Standard streams on connections of their own: every byte, in order, also when the agent is killed in between."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal

import pytest

from kata_protocols.status import StatusError
from kata_testing.native import NEEDS, fresh_id, native_agent, oci_process, oci_spec
from kata_testing.passed import OwnStream, OwnStreams, environment, exec_own
from kata_testing.wire import outcome, run_async

pytestmark = [
    pytest.mark.requires(*NEEDS),
    pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"]),
]

MIB = 1 << 20


def noise(mebibytes: int) -> bytes:
    return random.Random(1).randbytes(mebibytes * MIB)  # noqa: S311 - the same bytes every time


def served(tmp_path, supervised):
    return native_agent(tmp_path, supervised=supervised, environment=environment(tmp_path))


def test_what_goes_in_comes_back_the_same(tmp_path, supervised):
    async def body():
        data = noise(64)
        async with served(tmp_path, supervised) as agent:
            with OwnStreams(tmp_path) as streams:
                container = fresh_id()
                await agent.call(
                    "CreateContainer", container_id=container, OCI=oci_spec("cat"), **streams.ports
                )
                agent.made.append(container)
                await agent.call("StartContainer", container_id=container)
                async with asyncio.TaskGroup() as group:
                    group.create_task(streams["stdin"].send(data, end=True))
                    seen = group.create_task(streams["stdout"].receive_all())
                assert hashlib.sha256(seen.result()).digest() == hashlib.sha256(data).digest()
                assert await streams["stderr"].receive_all() == b""
                assert await agent.wait(container) == 0

    run_async(body(), 120)


def test_a_host_that_reads_slowly_holds_back_the_process_and_gets_all(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            with OwnStreams(tmp_path, "stdout") as streams, OwnStreams(tmp_path, "stdout") as others:
                await exec_own(agent, container, "slow", streams, "seq", "1000000")
                async with asyncio.TaskGroup() as group:
                    waiting = group.create_task(agent.wait(container, "slow"))
                    await exec_own(agent, container, "other", others, "echo", "free")
                    assert await others["stdout"].receive_all() == b"free\n"
                    assert await agent.wait(container, "other") == 0
                    assert not waiting.done(), "the status came before the output had been taken"
                    data = await streams["stdout"].receive_all()
                assert data == b"".join(b"%d\n" % n for n in range(1, 1_000_001))
                assert waiting.result() == 0

    run_async(body())


def test_the_status_comes_after_all_output_of_a_process_that_exits_at_once(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            for number in range(100):
                with OwnStreams(tmp_path, "stdout", "stderr") as streams:
                    name = f"e{number}"
                    await exec_own(agent, container, name, streams, "sh", "-c", f"echo {number}; echo no >&2")
                    assert await agent.wait(container, name) == 0
                    # it has been sent: nothing has to be waited for
                    assert streams["stdout"].socket.recv(99) == b"%d\n" % number
                    assert streams["stderr"].socket.recv(99) == b"no\n"
                    assert (streams["stdout"].socket.recv(1), streams["stderr"].socket.recv(1)) == (b"", b"")

    run_async(body())


def test_a_grandchild_that_holds_the_output_delays_neither_the_status_nor_the_end(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            for name, script in (("quiet", "sleep 1000 & echo parent"), ("loud", "yes & echo parent >&2")):
                with OwnStreams(tmp_path, "stdout", "stderr") as streams:
                    await exec_own(agent, container, name, streams, "sh", "-c", script)
                    async with asyncio.TaskGroup() as group:
                        out = group.create_task(streams["stdout"].receive_all())
                        err = group.create_task(streams["stderr"].receive_all())
                    assert b"parent\n" in out.result() + err.result()
                    assert await agent.wait(container, name) == 0
            await agent.remove(container)

    run_async(body())


def test_absent_streams_are_nothing_to_the_process_and_calls_say_where_the_others_are(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            with OwnStreams(tmp_path, "stdout") as streams:
                await exec_own(
                    agent, container, "e", streams, "sh", "-c", "cat; echo lost >&2; echo end; sleep 1000"
                )
                assert await streams["stdout"].receive() == b"end\n"
                for call, field in (
                    ("ReadStdout", {"len": 9}),
                    ("ReadStderr", {"len": 9}),
                    ("WriteStdin", {"data": b"x"}),
                ):
                    with pytest.raises(StatusError, match="connection of its own"):
                        await agent.call(call, container_id=container, exec_id="e", **field)

    run_async(body())


def test_a_port_that_nobody_connected_from_is_an_absent_stream(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            with OwnStreams(tmp_path, "stdout") as streams:
                missing = {**streams.ports, "stderr_port": 4999}
                await agent.call(
                    "ExecProcess", container_id=container, exec_id="e",
                    process=oci_process("sh", "-c", "echo lost >&2; echo kept"), **missing,
                )  # fmt: skip
                assert await streams["stdout"].receive_all() == b"kept\n"
                assert await agent.wait(container, "e") == 0
            assert "no connection from this port" in agent.log.read_text()

    run_async(body())


def test_a_host_that_closes_its_end_breaks_the_pipe_of_the_process(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            with OwnStreams(tmp_path, "stdout") as streams:
                await exec_own(agent, container, "e", streams, "yes")
                assert await streams["stdout"].receive(2) == b"y\n"
                streams["stdout"].close()
                assert await agent.wait(container, "e") in (1, signal.SIGPIPE)

    run_async(body())


def test_a_terminal_echoes_resizes_ends_and_gives_all_its_output(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            with OwnStreams(tmp_path, "stdin", "stdout") as streams:
                script = "read line; stty size; seq 100000; cat"
                await exec_own(agent, container, "t", streams, "sh", "-c", script, Terminal=True)
                await agent.call("TtyWinResize", container_id=container, exec_id="t", row=33, column=99)
                await streams["stdin"].send(b"word\n", end=True)
                lines = b"".join(b"%d\r\n" % n for n in range(1, 100001))
                seen = await streams["stdout"].receive_all()
                assert seen.startswith(b"word\r\n33 99\r\n" + lines), seen[:99]
                assert await agent.wait(container, "t") == 0

    run_async(body())


def test_nothing_is_left_open(tmp_path, supervised):
    async def body():
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            with OwnStreams(tmp_path) as streams:
                await exec_own(agent, container, "warm", streams, "true")
                await agent.wait(container, "warm")
            before = agent.open_fds()
            for number in range(20):
                with OwnStreams(tmp_path) as streams:
                    name = f"e{number}"
                    terminal = number % 2 == 1
                    await exec_own(agent, container, name, streams, "true", Terminal=terminal)
                    assert await agent.wait(container, name) == 0
                with OwnStreams(tmp_path) as streams, pytest.raises(StatusError):
                    await exec_own(agent, container, "missing", streams, "/no/such/program")
            assert len(agent.open_fds()) == len(before)

    run_async(body())


def test_without_a_listener_ports_are_refused_by_name(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            refused = agent.call(
                "ExecProcess", container_id=container, exec_id="e", process={"Args": ["true"]}, stdout_port=5
            )
            error = await outcome(refused)
            assert isinstance(error, StatusError)
            assert "agent.passfd_listener_port" in error.message

    run_async(body())


def test_an_agent_that_is_killed_loses_and_doubles_nothing(tmp_path, supervised):
    """Ten kills while 64 MiB go in and come back; the connections are PID 1's too."""
    if not supervised:
        pytest.skip("nobody outlives an agent that runs alone")

    async def body():
        data = noise(64)
        async with served(tmp_path, supervised) as agent:
            container = await agent.run("sleep", "1000")
            unclaimed = OwnStream(tmp_path)
            with OwnStreams(tmp_path, "stdin", "stdout") as streams:
                await exec_own(agent, container, "e", streams, "cat")
                seen = hashlib.sha256()
                size = 0
                async with asyncio.TaskGroup() as group:
                    group.create_task(streams["stdin"].send(data, end=True))
                    for kill in range(10):
                        while size < (kill + 1) * 6 * MIB:
                            piece = await streams["stdout"].receive()
                            assert piece, size
                            seen.update(piece)
                            size += len(piece)
                        client = await agent.client()
                        os.kill(agent.agent_pid(), signal.SIGKILL)
                        await client.wait_closed()
                        await agent.check()
                    while piece := await streams["stdout"].receive():
                        seen.update(piece)
                        size += len(piece)
                assert (size, seen.digest()) == (len(data), hashlib.sha256(data).digest())
                assert await agent.wait(container, "e") == 0
            # one that was accepted, but not asked for, is still there for its call
            with OwnStreams(tmp_path, "stdin") as others:
                others.by_name["stdout"] = unclaimed
                await exec_own(agent, container, "f", others, "echo", "kept")
                assert await unclaimed.receive_all() == b"kept\n"

    run_async(body(), 120)
