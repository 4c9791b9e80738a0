"""A peer that does not read its answers is not read from, and loses nothing when it reads again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from kata_protocols.aio import connection, transport
from kata_protocols.ttrpc import frame
from kata_protocols.ttrpc.events import ResponseReceived
from kata_testing.wire import CHECK, HEALTH, Health, RawClient, check_frame, run_async, served

WORD = b"\x0a\xff\x7f" + b"x" * 16383  # an answer of 16 KiB for Version


def version_frame(raw: RawClient, payload: bytes = WORD) -> bytes:
    return raw.codec.send_request(HEALTH.name, "Version", payload)[1]


async def send_until_full(raw: RawClient, data: bytes) -> int:
    """Send as much as the server takes while nobody reads; say how many bytes went."""
    sent = 0
    while sent < len(data):
        try:
            async with asyncio.timeout(0.2):
                await raw.wait_writable()
        except TimeoutError:
            return sent
        sent += raw.sock.send(data[sent : sent + 65536])
    return sent


def test_a_peer_that_does_not_read_is_not_read_from_and_loses_nothing() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router()) as here, await here.client() as other:
            with here.raw() as raw:
                count = 1000
                data = b"".join(version_frame(raw) for _ in range(count))
                sent = await send_until_full(raw, data)
                assert sent < len(data) / 2, "the server read on without bound"
                await other.call(CHECK, CHECK.request_type(), timeout_s=30)
                async with asyncio.TaskGroup() as group:
                    group.create_task(raw.send(data[sent:]))
                    streams = set()
                    for _ in range(count):
                        event = await raw.event()
                        assert isinstance(event, ResponseReceived)
                        assert event.code == 0
                        streams.add(event.stream_id)
                    assert len(streams) == count

    run_async(scenario())


def test_a_peer_that_never_reads_while_its_calls_keep_finishing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "HARD_LIMIT_BYTES", 256 * 1024)
    monkeypatch.setattr(connection, "MAX_QUEUED_BYTES", 1 << 30)

    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw, pytest.raises((BrokenPipeError, ConnectionResetError)):
                await raw.send(b"".join(version_frame(raw) for _ in range(2000)))
            with here.raw() as raw:
                await raw.send(check_frame(raw.codec))
                assert isinstance(await raw.event(), ResponseReceived)

    run_async(scenario())


def test_half_sent_frames_of_many_peers_are_bounded_and_the_largest_holder_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "MAX_HELD_BYTES", 1 << 20)

    async def scenario() -> None:
        async with served(Health().router()) as here, AsyncExitStack() as stack:
            raws = [stack.enter_context(here.raw()) for _ in range(5)]
            head = frame.HEADER.pack(2 << 20, 1, frame.REQUEST, 0)
            for raw, kibibytes in zip(raws, (300, 200, 200, 200, 100), strict=True):
                await raw.send(head + b"x" * (kibibytes << 10))
            await raws[4].send(
                b"x" * (100 << 10)
            )  # more than 1 MiB of five peers, and the first has most of it
            with suppress(ConnectionResetError):
                assert await raws[0].receive() == b""
            assert len(here.errors) == 1
            assert "bytes of half-sent frames wait, the peer with most of them is cut off" in str(
                here.errors[0][1]
            )
            await raws[4].send(b"x" * (100 << 10))  # what the first had is free again
            for raw in raws[1:]:
                raw.sock.settimeout(0)
                with pytest.raises(BlockingIOError):
                    raw.sock.recv(1)
            with here.raw() as raw:
                await raw.send(check_frame(raw.codec))
                assert isinstance(await raw.event(), ResponseReceived)
            assert len(here.errors) == 1

    run_async(scenario())
