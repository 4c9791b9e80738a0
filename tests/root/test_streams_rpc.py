"""Standard streams by calls: every byte once and in order, and nobody waits for somebody else's stream."""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
from functools import cache

import pytest

from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import outcome, run_async

pytestmark = [
    pytest.mark.requires(*NEEDS),
    pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"]),
]

MIB = 1 << 20
LONG_S = 300.0


@cache
def payload(mebibytes: int) -> bytes:
    """No piece of it like another, so that a doubled or swapped one shows."""
    return random.Random(1).randbytes(mebibytes * MIB)  # noqa: S311 - the same bytes every time


async def feed(agent: NativeAgent, data: bytes, container: str, exec_id: str = "", piece: int = MIB) -> None:
    for offset in range(0, len(data), piece):
        part = data[offset : offset + piece]
        reply = await agent.call("WriteStdin", LONG_S, container_id=container, exec_id=exec_id, data=part)
        assert reply.len == len(part)
    await agent.call("CloseStdin", container_id=container, exec_id=exec_id)


async def checksum(
    agent: NativeAgent, container: str, exec_id: str = "", limit: int = MIB
) -> tuple[int, str]:
    """Size and checksum of all output, read in pieces; a small limit makes a slow reader."""
    digest, size = hashlib.sha256(), 0
    while True:
        piece = await outcome(agent.read(container, exec_id, limit=limit))
        if not isinstance(piece, bytes):
            assert isinstance(piece, StatusError), piece
            assert "eof" in piece.message
            return size, digest.hexdigest()
        digest.update(piece)
        size += len(piece)


def expected(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("mebibytes", "limit"), [(64, MIB), (64, 4096)], ids=["fast", "slow-reader"])
def test_what_goes_through_stdin_and_back_is_the_same(tmp_path, supervised, mebibytes, limit):
    async def body():
        data = payload(mebibytes)
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            async with asyncio.TaskGroup() as group:
                group.create_task(feed(agent, data, container))
                seen = group.create_task(checksum(agent, container, limit=limit))
            assert seen.result() == expected(data)
            assert await agent.wait(container) == 0

    run_async(body(), LONG_S)


def test_eight_streams_at_once_do_not_mix(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            contents = {f"e{n}": payload(64)[n:] for n in range(8)}
            for exec_id in contents:
                await agent.exec(container, exec_id, "cat")
            async with asyncio.TaskGroup() as group:
                seen = {}
                for exec_id, data in contents.items():
                    group.create_task(feed(agent, data, container, exec_id, 300_007))
                    seen[exec_id] = group.create_task(checksum(agent, container, exec_id))
            for exec_id, data in contents.items():
                assert seen[exec_id].result() == expected(data), exec_id

    run_async(body(), LONG_S)


def test_a_stuck_reader_and_a_stuck_writer_delay_nobody(tmp_path, supervised):
    """One process's output is never read, another never reads its input, a third has a read that waits."""

    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "unread", "sh", "-c", "yes | head -c 1000000; echo done >&2")
            await agent.exec(container, "deaf", "sleep", "1000")
            await agent.exec(container, "silent", "sleep", "1000")
            async with asyncio.TaskGroup() as group:
                write = agent.call("WriteStdin", container_id=container, exec_id="deaf", data=bytes(MIB))
                stuck = [
                    group.create_task(outcome(write)),
                    group.create_task(outcome(agent.read(container, "silent"))),
                ]
                for number in range(20):
                    await agent.exec(container, f"e{number}", "cat")
                    await feed(agent, b"hello", container, f"e{number}")
                    assert (await agent.read_all(container, f"e{number}"))[0] == b"hello"
                    assert await agent.wait(container, f"e{number}") == 0
                assert not any(task.done() for task in stuck)
                # the process was held back, and goes on as soon as somebody reads
                size, _ = await checksum(agent, container, "unread")
                assert size == 1_000_000
                assert await agent.read(container, "unread", "Stderr") == b"done\n"
                await agent.remove(container)
            assert all(isinstance(task.result(), StatusError) for task in stuck)

    run_async(body(), LONG_S)


def test_output_of_a_process_that_exits_at_once_is_complete(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            for number in range(200):
                name = f"e{number}"
                await agent.exec(container, name, "sh", "-c", f"echo out {number}; echo err {number} >&2")
                if number % 2:  # hosts read before they wait, or wait first
                    assert await agent.wait(container, name) == 0
                assert (await agent.read_all(container, name))[0] == b"out %d\n" % number
                assert (await agent.read_all(container, name, "Stderr"))[0] == b"err %d\n" % number
                assert await agent.wait(container, name) == 0

    run_async(body(), LONG_S)


def test_a_grandchild_that_holds_the_pipe_delays_neither_the_end_nor_the_removal(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e", "sh", "-c", "sleep 1000 & echo parent")
            assert await agent.wait(container, "e") == 0
            data, end = await agent.read_all(container, "e")
            assert (data, "eof" in end) == (b"parent\n", True)
            await agent.remove(container)

    run_async(body())


def test_two_readers_of_one_stream_get_disjoint_pieces_in_order(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run(
                "sh", "-c", "i=0; while [ $i -lt 9999 ]; do echo $i; i=$((i+1)); done"
            )
            everything = b"".join(b"%d\n" % n for n in range(9999))
            pieces: list[bytes] = []

            async def read() -> None:
                while isinstance(piece := await outcome(agent.read(container, limit=700)), bytes):
                    pieces.append(piece)

            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                group.create_task(read())
            # the answers of one connection come in the order in which they were made
            assert b"".join(pieces) == everything

    run_async(body())


def test_a_read_of_nothing_is_refused_and_a_huge_one_costs_nothing(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            with pytest.raises(StatusError, match="len is 0") as caught:
                await agent.read(container, limit=0)
            assert caught.value.code == Code.INTERNAL
            await agent.call("WriteStdin", container_id=container, data=b"x")
            before = _size(agent)
            assert await agent.read(container, limit=(1 << 32) - 1) == b"x"
            assert _size(agent) - before < 8 * MIB

    run_async(body())


def _size(agent: NativeAgent) -> int:
    with open(f"/proc/{agent.agent_pid()}/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * 4096


def test_output_that_nobody_has_read_outlives_the_wait_until_the_removal(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sh", "-c", "echo out; echo err >&2")
            for _ in range(2):
                assert await agent.wait(container) == 0
            assert (await agent.read_all(container, stream="Stderr"))[0] == b"err\n"
            assert (await agent.read_all(container))[0] == b"out\n"
            await agent.remove(container)
            with pytest.raises(StatusError, match=container):
                await agent.read(container)

    run_async(body())


def test_a_terminal_gives_all_output_of_a_process_that_has_ended(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "t", "seq", "100000", Terminal=True)
            seen = (await agent.read_all(container, "t"))[0]
            assert seen == b"".join(b"%d\r\n" % n for n in range(1, 100001))
            for number in range(50):
                name = f"t{number}"
                await agent.exec(container, name, "echo", "once", Terminal=True)
                assert await agent.wait(container, name) == 0
                assert (await agent.read_all(container, name, "Stderr"))[0] == b"once\r\n"

    run_async(body(), LONG_S)


def test_the_agent_may_open_as_many_files_as_the_machine_lets_it(tmp_path, supervised):
    async def body():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))
        try:
            async with native_agent(tmp_path, supervised=supervised) as agent:
                now = resource.prlimit(agent.agent_pid(), resource.RLIMIT_NOFILE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert now[0] == now[1] >= hard

    run_async(body())
