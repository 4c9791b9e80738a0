"""Sessions: output read again from any kept offset, by several readers, gaps told, the agent killed in between."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal

import pytest

from kata_protocols import services
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.native import CALL_TIMEOUT_S, NEEDS, native_agent
from kata_testing.wire import outcome, run_async

pytestmark = [
    pytest.mark.requires(*NEEDS),
    pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"]),
]

SERVICE = services.SANDBOX_SERVICE
KIB = 1 << 10
LINES = b"".join(b"%d\n" % n for n in range(1, 400_001))
WAIT_MS = 15_000


async def ask(agent, name, container, exec_id="e", **fields):
    method = SERVICE.methods[name]
    request = method.request_type(container_id=container, exec_id=exec_id, **fields)
    return await (await agent.client()).call(method, request, timeout_s=CALL_TIMEOUT_S)


async def begin(agent, *plans: pb.StreamPlan, script: str = "read go; seq 400000", **process) -> str:
    """A container with a process that waits for a line, and a session on it."""
    container = await agent.run("sleep", "1000")
    await agent.exec(container, "e", "sh", "-c", script, **process)
    await ask(agent, "OpenSession", container, streams=plans)
    return container


async def go(agent, container):
    await agent.call("WriteStdin", container_id=container, exec_id="e", data=b"\n")


def block(ring_kib: int) -> pb.StreamPlan:
    return pb.StreamPlan(stream=pb.STDOUT, ring_bytes=ring_kib * KIB, when_full=pb.BLOCK)


def drop(ring_kib: int) -> pb.StreamPlan:
    return pb.StreamPlan(stream=pb.STDOUT, ring_bytes=ring_kib * KIB, when_full=pb.DROP_OLDEST)


async def read_on(agent, container, offset=0, *, release=True, limit=100_000, stop=None):
    """Everything from an offset to the end of the stream: the bytes, and the gaps as (first, end)."""
    pieces, gaps = [], []
    while True:
        answer = await ask(
            agent, "ReadSession", container, stream=pb.STDOUT, offset=offset, limit=limit,
            wait_ms=WAIT_MS, release=offset if release else 0,
        )  # fmt: skip
        if answer.HasField("gap"):
            assert (answer.gap.first, answer.gap.end) == (offset, answer.offset)
            gaps.append((answer.gap.first, answer.gap.end))
        else:
            assert answer.offset == offset
        pieces.append(answer.data)
        offset = answer.offset + len(answer.data)
        assert offset <= answer.end
        if (answer.ended and offset == answer.end) or (stop and offset >= stop):
            return b"".join(pieces), gaps


async def wait_ended(agent, container, stream) -> None:
    """Until nothing will follow: the last bytes may still be on their way when the status is told."""
    end, ended = 0, False
    while not ended:
        answer = await ask(
            agent, "ReadSession", container, stream=stream, offset=end, limit=1, wait_ms=WAIT_MS
        )
        end, ended = answer.end, answer.ended


def test_a_full_ring_that_blocks_loses_nothing_and_goes_on_when_room_is_released(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await begin(agent, block(64))
            await go(agent, container)
            # two readers see the same bytes; the process waits while none of them releases
            seen = []
            for _ in range(2):
                data, gaps = await read_on(agent, container, release=False, stop=64 * KIB)
                seen.append((data, gaps))
            assert seen[0] == seen[1] == (LINES[: 64 * KIB], [])
            method = SERVICE.methods["ListSessions"]
            (found,) = (await (await agent.client()).call(method, method.request_type())).sessions
            assert [(s.first, s.end, s.ended) for s in found.streams] == [(0, 64 * KIB, False)]
            assert await read_on(agent, container) == (LINES, [])
            assert await agent.wait(container, "e") == 0

    run_async(body())


def test_a_full_ring_that_drops_keeps_the_newest_and_tells_the_gap(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await begin(agent, drop(128))
            await go(agent, container)
            assert await agent.wait(container, "e") == 0, "nobody reads, and the process is not held back"
            await wait_ended(agent, container, pb.STDOUT)
            first = len(LINES) - 128 * KIB
            for _ in range(2):
                data, gaps = await read_on(agent, container)
                assert gaps == [(0, first)]
                assert data == LINES[first:]
            assert (await read_on(agent, container, first + 1000))[0] == LINES[first + 1000 :]

    run_async(body())


def test_a_reader_waits_for_a_byte_and_is_told_when_none_comes(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await begin(agent, block(64), script="cat")
            ask_none = ask(agent, "ReadSession", container, stream=pb.STDOUT, wait_ms=1)
            answer = await ask_none
            assert (answer.data, answer.end, answer.ended) == (b"", 0, False)
            async with asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(
                        ask(agent.another(), "ReadSession", container, stream=pb.STDOUT, wait_ms=WAIT_MS)
                    )
                    for _ in range(3)
                ]
                await agent.call("WriteStdin", container_id=container, exec_id="e", data=b"word")
            assert [task.result().data for task in waiting] == [b"word"] * 3
            error = await outcome(ask(agent, "ReadSession", container, stream=pb.STDOUT, offset=5))
            assert isinstance(error, StatusError)
            assert "ends at 4" in error.message

    run_async(body())


def test_calls_are_refused_by_name_while_a_session_keeps_the_stream_and_work_again_after(
    tmp_path, supervised
):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await begin(agent, block(64), script="cat")
            with pytest.raises(StatusError, match="ReadSession"):
                await agent.read(container, "e")
            for _ in range(2):  # asked again, it is the same session
                session = await ask(agent, "OpenSession", container, streams=[block(64)])
                assert [s.ring_bytes for s in session.streams] == [64 * KIB]
            with pytest.raises(StatusError, match="another plan"):
                await ask(agent, "OpenSession", container, streams=[block(128)])
            await ask(agent, "CloseSession", container)
            with pytest.raises(StatusError, match="no session"):
                await ask(agent, "ReadSession", container, stream=pb.STDOUT)
            await agent.call("WriteStdin", container_id=container, exec_id="e", data=b"word")
            assert await agent.read(container, "e") == b"word"

    run_async(body())


def test_both_streams_and_a_terminal_have_sessions(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await begin(agent, script="echo out; echo err >&2")
            for stream, text in ((pb.STDOUT, b"out\n"), (pb.STDERR, b"err\n")):
                answer = await ask(agent, "ReadSession", container, stream=stream, wait_ms=WAIT_MS)
                assert answer.data == text
                await wait_ended(agent, container, stream)
            assert await agent.wait(container, "e") == 0
            before = agent.open_fds()
            await agent.exec(container, "t", "sh", "-c", "read go; seq 100000", Terminal=True)
            await ask(agent, "OpenSession", container, "t")
            await agent.call("WriteStdin", container_id=container, exec_id="t", data=b"\n")
            seen, offset, ended = b"", 0, False
            while not ended:
                answer = await ask(
                    agent, "ReadSession", container, "t", stream=pb.STDOUT, offset=offset, limit=1 << 20,
                    wait_ms=WAIT_MS, release=offset,
                )  # fmt: skip
                seen += answer.data
                offset = answer.offset + len(answer.data)
                ended = answer.ended and offset == answer.end
            assert seen == b"\r\n" + b"".join(b"%d\r\n" % n for n in range(1, 100001))
            assert await agent.wait(container, "t") == 0
            await ask(agent, "CloseSession", container, "t")
            assert len(agent.open_fds()) == len(before)

    run_async(body())


def test_a_plan_beyond_the_bounds_is_refused_and_leaves_nothing(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("cat")
            before = agent.open_fds()
            with pytest.raises(StatusError, match="ring_bytes"):
                await ask(agent, "OpenSession", container, "", streams=[block(64), drop(1 << 20)])
            assert agent.open_fds() == before
            await agent.call("WriteStdin", container_id=container, data=b"x")
            assert await agent.read(container) == b"x"

    run_async(body())


@pytest.mark.parametrize("plan", [block(256), drop(4096)], ids=["block", "drop"])
def test_an_agent_that_is_killed_loses_and_doubles_nothing(tmp_path, supervised, plan):
    if not supervised:
        pytest.skip("nobody outlives an agent that runs alone")

    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await begin(agent, plan)
            await go(agent, container)
            digest, offset = hashlib.sha256(), 0
            for kill in range(8):
                piece, gaps = await read_on(agent, container, offset, stop=(kill + 1) * 300_000)
                assert not gaps
                digest.update(piece)
                offset += len(piece)
                client = await agent.client()
                os.kill(agent.agent_pid(), signal.SIGKILL)
                await client.wait_closed()
                await agent.check()
            piece, gaps = await read_on(agent, container, offset)
            digest.update(piece)
            assert (offset + len(piece), gaps) == (len(LINES), [])
            assert digest.digest() == hashlib.sha256(LINES).digest()
            assert await agent.wait(container, "e") == 0

    run_async(body(), 120)
