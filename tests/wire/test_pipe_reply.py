"""PipeReply: every byte once, in the reply's place in the queue; told its end exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket

import pytest

from kata_protocols.aio import connection
from kata_protocols.aio.transport import SCRATCH_BYTES, PipeWrite, Transport
from kata_protocols.gen import agent_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.events import ResponseReceived
from kata_testing.pipes import AGENT, Reader, Reply
from kata_testing.wire import RawClient, check_frame, run_async, served


def read_frame(raw: RawClient, timeout_nano: int = 0) -> bytes:
    return raw.codec.send_request(AGENT.name, "ReadStdout", b"", timeout_nano=timeout_nano)[1]


async def read_answer(raw: RawClient) -> bytes:
    event = await raw.event()
    assert isinstance(event, ResponseReceived)
    assert event.code == 0, event
    data: bytes = agent_pb2.ReadStreamResponse.FromString(event.payload).data
    return data


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("size", [1, 127, 128, 32768, 900_000])
def test_every_byte_arrives_once(size: int, later: bool) -> None:
    async def scenario() -> None:
        data = os.urandom(size)
        reader = Reader(Reply(data), Reply(b"next"), later=later)
        async with served(reader.router()) as here:
            with here.raw() as raw:
                await raw.send(read_frame(raw) + read_frame(raw))
                assert sorted([await read_answer(raw), await read_answer(raw)], key=len) == sorted(
                    [data, b"next"], key=len
                )
        assert [reply.ends for reply in reader.prepared] == [[True], [True]]
        assert [reply.left_in_pipe() for reply in reader.prepared] == [0, 0]
        reader.close()

    run_async(scenario())


def test_replies_behind_a_pipe_wait_for_it_and_a_slow_reader_gets_all() -> None:
    async def scenario() -> None:
        data = os.urandom(900_000)
        reader = Reader(*[Reply(data) for _ in range(8)])
        async with served(reader.router()) as here:
            with here.raw() as raw:
                await raw.send(b"".join(read_frame(raw) + check_frame(raw.codec) for _ in range(8)))
                await asyncio.sleep(0)
                assert any(reply.ends == [] for reply in reader.prepared)
                answers = [await raw.event() for _ in range(16)]
                assert (
                    len({answer.stream_id for answer in answers if isinstance(answer, ResponseReceived)})
                    == 16
                )
                payloads = [a.payload for a in answers if isinstance(a, ResponseReceived) and a.payload]
                assert all(payload.endswith(data) for payload in payloads)
                assert len(payloads) == 8
        assert all(reply.ends == [True] for reply in reader.prepared)
        reader.close()

    run_async(scenario())


def test_a_connection_lost_midway_says_not_delivered() -> None:
    async def scenario() -> None:
        reader = Reader(*[Reply(os.urandom(900_000)) for _ in range(2)])
        async with served(reader.router()) as here:
            with here.raw() as raw:
                await raw.send(read_frame(raw) + read_frame(raw))
                assert await raw.read_exactly(1000)
            for reply in reader.prepared:
                await reply.ended.wait()
        assert reader.prepared[-1].ends == [False]
        assert all(len(reply.ends) == 1 for reply in reader.prepared)
        reader.close()

    run_async(scenario())


def test_a_client_gone_before_the_reply_says_not_delivered() -> None:
    async def scenario() -> None:
        reader = Reader(Reply(b"unread"), later=True)
        router = reader.router(cancel_on_disconnect=False)
        reader.release.clear()
        async with served(router) as here:
            with here.raw() as raw:
                await raw.send(read_frame(raw))
                await raw.send(check_frame(raw.codec))
                await raw.event()
            with here.raw() as other:
                await other.send(check_frame(other.codec))
                await other.event()
            reader.release.set()
            await reader.prepared[0].ended.wait()
        assert reader.prepared[0].ends == [False]
        reader.close()

    run_async(scenario())


def test_a_reply_after_the_deadline_says_not_delivered() -> None:
    async def scenario() -> None:
        reader = Reader(Reply(b"late"), later=True)
        reader.release.clear()
        async with served(reader.router(cancel_on_disconnect=False)) as here:
            with here.raw() as raw:
                await raw.send(read_frame(raw, timeout_nano=10**7))
                assert await raw.event() == ResponseReceived(1, Code.DEADLINE_EXCEEDED, "timeout", (), b"")
                reader.release.set()
                await reader.prepared[0].ended.wait()
        assert reader.prepared[0].ends == [False]
        reader.close()

    run_async(scenario())


def test_a_pipe_that_cannot_be_filled_is_a_status() -> None:
    async def scenario() -> None:
        reader = Reader(Reply(b"x", StatusError(Code.INTERNAL, "eof")), Reply(b"y", ValueError("bad")))
        async with served(reader.router()) as here:
            with here.raw() as raw:
                await raw.send(read_frame(raw) + read_frame(raw) + check_frame(raw.codec))
                assert await raw.event() == ResponseReceived(1, Code.INTERNAL, "eof", (), b"")
                assert await raw.event() == ResponseReceived(3, Code.UNKNOWN, "ValueError: bad", (), b"")
                assert await raw.event() == ResponseReceived(5, 0, "", (), b"")
            assert [str(error) for _, error in here.errors] == ["bad"]
        assert [reply.ends for reply in reader.prepared] == [[False], [False]]
        reader.close()

    run_async(scenario())


def test_a_reply_beyond_the_limit_is_a_status() -> None:
    async def scenario() -> None:
        reply = Reply(b"x")
        reply.length = 5 * 1024 * 1024
        reader = Reader(reply)
        async with served(reader.router()) as here:
            with here.raw() as raw:
                await raw.send(read_frame(raw))
                event = await raw.event()
                assert isinstance(event, ResponseReceived)
                assert event.code == Code.INVALID_ARGUMENT
                assert event.message.endswith("exceed maximum message size of 4194304")
        assert reply.ends == [False]
        reader.close()

    run_async(scenario())


def test_queued_pipes_count_as_unread_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_QUEUED_BYTES", 500_000)

    async def scenario() -> None:
        reader = Reader(*[Reply(os.urandom(300_000)) for _ in range(20)])
        async with served(reader.router()) as here:
            with here.raw() as raw:
                await raw.send(b"".join(read_frame(raw) for _ in range(20)))
                with here.raw() as other:
                    await other.send(check_frame(other.codec))
                    await other.event()
                assert len(reader.replies) >= 15, "the server asked for replies that have nowhere to go"
                for reply in reader.prepared:
                    assert await read_answer(raw) == reply.data
        reader.close()

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 900_000])
def test_a_socket_that_refuses_splice_gets_every_byte_all_the_same(size: int) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        # splice(2) answers EINVAL for a target that appends; a plain write does not care
        fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_APPEND)
        lost: list[OSError | None] = []
        transport = Transport(
            asyncio.get_running_loop(),
            ours,
            memoryview(bytearray(SCRATCH_BYTES)),
            on_data=lambda _data: None,
            on_lost=lost.append,
            on_drained=lambda: None,
        )
        reply = Reply(os.urandom(size))
        transport.write(b"before")
        transport.write_pipe(PipeWrite(reply, b"head", lambda error: repr(error).encode()))
        transport.write(b"after")
        expected = b"before" + b"head" + reply.data + b"after"
        got = b""
        while len(got) < len(expected):
            piece = await asyncio.get_running_loop().sock_recv(theirs, 1 << 20)
            assert piece, (lost, len(got))
            got += piece
        assert got == expected
        assert reply.ends == [True]
        transport.abort()
        theirs.close()
        reply.close()

    run_async(scenario())
