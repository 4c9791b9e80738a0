"""Server streams over ttRPC and gRPC: order, end, status, back-pressure, and nothing left when either side leaves."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from grpclib.client import Channel, UnaryStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from kata_protocols.aio import client_stream
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.gen import sandbox_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc import frame
from kata_protocols.ttrpc.events import DataReceived
from kata_testing.streaming import EVENTS, SANDBOX, Streamer, ask
from kata_testing.wire import CHECK, HEALTH, Health, outcome, run_async, served


async def collect(client: Client, word: str, **options: Any) -> list[str]:
    async with aclosing(client.stream(EVENTS, ask(word), **options)) as events:
        return [event.cursor async for event in events]


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_stream_gives_every_message_in_order_and_ends(count: int) -> None:
    async def scenario() -> None:
        async with served(Streamer().router()) as here, await here.client() as client:
            assert await collect(client, f"count {count}") == [str(number) for number in range(count)]

    run_async(scenario())


def test_the_end_is_an_empty_last_data_frame_as_in_containerds_library() -> None:
    async def scenario() -> None:
        async with served(Streamer().router()) as here:
            with here.raw() as raw:
                payload = ask("count 1").SerializeToString()
                await raw.send(raw.codec.send_request(SANDBOX.name, "Events", payload, more=False)[1])
                message = sandbox_pb2.Event(cursor="0").SerializeToString()
                assert await raw.read_exactly(10 + len(message)) == frame.encode_frame(1, 3, 0, message)
                assert await raw.read_exactly(10) == frame.encode_frame(1, 3, 5, b"")

    run_async(scenario())


def test_a_stream_that_fails_ends_with_its_status_and_details() -> None:
    async def scenario() -> None:
        async with served(Streamer().router()) as here, await here.client() as client:
            async with aclosing(client.stream(EVENTS, ask("fail 2"))) as events:
                assert [(await anext(events)).cursor, (await anext(events)).cursor] == ["0", "1"]
                with pytest.raises(StatusError) as caught:
                    await anext(events)
            assert (caught.value.code, caught.value.message) == (Code.FAILED_PRECONDITION, "not now")
            assert caught.value.details == (("type.test/x", b"\x01"),)
            with pytest.raises(StatusError, match="no such cursor"):
                await collect(client, "refuse")

    run_async(scenario())


def test_a_stream_that_is_left_ends_its_handler_and_the_connection_goes_on() -> None:
    async def scenario() -> None:
        streamer = Streamer()
        async with served(streamer.router()) as here, await here.client() as client:
            async with aclosing(client.stream(EVENTS, ask("hang"))) as events:
                assert (await anext(events)).cursor == "0"
            await streamer.wait_finished()
            assert await collect(client, "count 2") == ["0", "1"]
            assert here.errors == []

    run_async(scenario())


def test_a_client_that_vanishes_ends_its_streams() -> None:
    async def scenario() -> None:
        streamer = Streamer()
        async with served(streamer.router()) as here:
            client = await here.client()
            events = client.stream(EVENTS, ask("hang"))
            await anext(events)
            await client.aclose()
            await streamer.wait_finished()
            with pytest.raises(ConnectionLostError):
                await anext(events)

    run_async(scenario())


def test_the_servers_end_answers_streams_that_wait() -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            async with served(Streamer().router()) as here:
                client = await here.client()
                events = client.stream(EVENTS, ask("hang"))
                await anext(events)
                waiting = group.create_task(outcome(anext(events)))
                here.server.begin_shutdown()
                error = await waiting
            assert isinstance(error, StatusError)
            assert (error.code, error.message) == (Code.UNAVAILABLE, "server is shutting down")
            await client.aclose()

    run_async(scenario())


def test_a_deadline_ends_a_stream_on_both_sides() -> None:
    async def scenario() -> None:
        streamer = Streamer()
        async with served(streamer.router()) as here, await here.client() as client:
            with pytest.raises(StatusError) as caught:
                await collect(client, "hang", timeout_s=0.05)
            assert (caught.value.code, caught.value.message) == (Code.DEADLINE_EXCEEDED, "timeout")
            await streamer.wait_idle()

    run_async(scenario())


def test_a_consumer_that_does_not_take_slows_the_server_and_loses_nothing() -> None:
    async def scenario() -> None:
        streamer = Streamer()
        async with (
            served(streamer.router()) as here,
            await here.client() as client,
            await here.client() as other,
        ):
            async with aclosing(client.stream(EVENTS, ask("flood 2000 16384"))) as events:
                await anext(events)
                # Another connection's stream runs to its end meanwhile: when it has, the first had its chance too.
                assert len(await collect(other, "count 20000")) == 20000
                assert streamer.sent - 20000 < 1000, "the server sent on without bound"
                rest = [event.cursor async for event in events]
            assert rest == [str(number) for number in range(1, 2000)]

    run_async(scenario())


def test_a_full_stream_delays_no_call_of_its_connection_and_fails_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_stream, "HARD_LIMIT_BYTES", 1024 * 1024)

    async def scenario() -> None:
        streamer = Streamer()
        health = Health()
        router = streamer.router()
        router.add(HEALTH, "Check", health.check)
        router.add(HEALTH, "Version", health.version)
        async with served(router) as here, await here.client() as client, asyncio.TaskGroup() as group:
            async with aclosing(client.stream(EVENTS, ask("flood 2000 16384"))) as events:
                await anext(events)
                wait = HEALTH.methods["Version"]
                waiting = group.create_task(outcome(client.call(wait, wait.request_type(service="wait"))))
                await client.call(CHECK, CHECK.request_type(), timeout_s=20)
                await streamer.wait_finished()  # the stream's consumer fell behind: it was given up
                with pytest.raises(StatusError, match="stream read too slowly") as caught:
                    async for _ in events:
                        pass
                assert caught.value.code is Code.RESOURCE_EXHAUSTED
            health.release.set()
            assert (await waiting).grpc_version == "waited"

    run_async(scenario())


def test_a_stream_opened_for_sending_too_is_served_and_its_half_close_is_no_end() -> None:
    async def scenario() -> None:
        async with served(Streamer().router()) as here:
            with here.raw() as raw:
                payload = ask("count 3").SerializeToString()
                stream_id, data = raw.codec.send_request(SANDBOX.name, "Events", payload, more=True)
                await raw.send(data + frame.encode_frame(stream_id, 3, 5, b""))
                got = [await raw.event() for _ in range(4)]
                assert [isinstance(event, DataReceived) for event in got] == [True] * 4
                assert got[3] == DataReceived(stream_id, b"", closed=True)

    run_async(scenario())


def test_a_message_beyond_the_limit_is_a_status() -> None:
    async def scenario() -> None:
        async with served(Streamer().router()) as here, await here.client() as client:
            with pytest.raises(StatusError, match="exceed maximum message size") as caught:
                await collect(client, f"flood 1 {4 * 1024 * 1024}")
            assert caught.value.code is Code.INVALID_ARGUMENT

    run_async(scenario())


# gRPC


def grpc_events(channel: Channel) -> UnaryStreamMethod[sandbox_pb2.EventsRequest, sandbox_pb2.Event]:
    return UnaryStreamMethod(channel, f"/{SANDBOX.name}/Events", sandbox_pb2.EventsRequest, sandbox_pb2.Event)


def test_grpc_streams_messages_and_status() -> None:
    async def scenario() -> None:
        streamer = Streamer()
        async with served(streamer.router()) as here, Channel(path=here.address.path) as channel:
            events = grpc_events(channel)
            assert [event.cursor for event in await events(ask("count 500"))] == [
                str(number) for number in range(500)
            ]
            assert await events(ask("count 0")) == []
            for word in ("refuse", "fail 2"):
                with pytest.raises(GRPCError) as caught:
                    await events(ask(word))
                assert caught.value.status in (Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION)
            with pytest.raises((GRPCError, TimeoutError)):  # the server's answer, or grpclib's own clock
                await events(ask("hang"), timeout=0.1)
            await streamer.wait_idle()
            assert streamer.finished >= 3

    run_async(scenario())


def test_grpc_peers_that_reset_vanish_or_do_not_read_leave_nothing_running() -> None:
    async def scenario() -> None:
        streamer = Streamer()
        async with served(streamer.router()) as here:
            async with Channel(path=here.address.path) as channel:
                async with grpc_events(channel).open() as stream:
                    await stream.send_message(ask("hang"), end=True)
                    assert (await stream.recv_message()) is not None
                    await stream.cancel()
                await streamer.wait_finished(1)
                async with grpc_events(channel).open() as stream:
                    await stream.send_message(ask("flood 3000 16384"), end=True)
                    assert (await stream.recv_message()) is not None
                    assert streamer.sent < 2000, "the server sent on without bound"
                    channel.close()
                    await streamer.wait_finished(2)
                    with pytest.raises(StreamTerminatedError):
                        await stream.cancel()
            assert here.errors == []

    run_async(scenario())


def test_the_servers_end_answers_grpc_streams_that_wait() -> None:
    async def scenario() -> None:
        async with (
            served(Streamer().router()) as here,
            Channel(path=here.address.path) as channel,
            grpc_events(channel).open() as stream,
        ):
            await stream.send_message(ask("hang"), end=True)
            await stream.recv_message()
            here.server.begin_shutdown()
            assert await stream.recv_message() is None
            with pytest.raises(GRPCError, match="server is shutting down") as caught:
                await stream.recv_trailing_metadata()
            assert caught.value.status is Status.UNAVAILABLE

    run_async(scenario())
