"""Any bytes on the port: no crash, no hang, no memory without bound, and Check still answers."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_protocols.aio.sniff import HTTP2_PREFACE
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.events import ResponseReceived
from kata_protocols.ttrpc.frame import HEADER, encode_frame
from kata_protocols.ttrpc.state import Role
from kata_testing.wire import HEALTH, Health, Served, check_frame, run_async, served

ROUNDS = 150


async def still_answers(here: Served) -> None:
    with here.raw() as raw:
        async with asyncio.timeout(60):
            await raw.send(check_frame(raw.codec))
            assert await raw.event() == ResponseReceived(1, 0, "", (), b"\x08\x01")


async def throw(here: Served, data: bytes) -> None:
    """Send bytes, read whatever comes until the server has nothing more to say to the closed half."""
    with here.raw() as raw:
        try:
            async with asyncio.timeout(60):
                await raw.send(data)
                raw.sock.shutdown(socket.SHUT_WR)
                while await raw.receive():
                    pass
        except (BrokenPipeError, ConnectionResetError):
            return  # the server may close while we still write


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 2000))


def lying_headers(rng: random.Random) -> bytes:
    """Frames whose length, stream, type and flags are anything; bodies shorter, longer or right."""
    frames = []
    for _ in range(rng.randrange(1, 20)):
        body = rng.randbytes(rng.randrange(0, 60))
        length = rng.choice([len(body), rng.randrange(200), rng.randrange(2**32), 4194304, 4194305])
        frames.append(HEADER.pack(length, rng.randrange(2**32), rng.randrange(5), rng.randrange(256)) + body)
    return b"".join(frames)


def mutated_calls(rng: random.Random) -> bytes:
    """Good calls with a few bytes changed."""
    codec = Connection(Role.CLIENT)
    data = bytearray()
    for _ in range(rng.randrange(1, 20)):
        method = rng.choice(["Check", "Version", "Nope"])
        data += codec.send_request(
            HEALTH.name,
            method,
            rng.randbytes(3),
            timeout_nano=rng.choice([0, 1, 2**63 - 1, -1]),
            metadata=(("k", "v"),),
        )[1]
    for _ in range(rng.randrange(6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def streams(rng: random.Random) -> bytes:
    """Streaming frames in any order on a few streams."""
    return b"".join(
        encode_frame(
            rng.choice([1, 3, 5]), rng.choice([1, 3, 3, 3]), rng.randrange(8), rng.randbytes(rng.randrange(9))
        )
        for _ in range(rng.randrange(1, 40))
    )


def http2(rng: random.Random) -> bytes:
    """HTTP/2's preface, perhaps a good settings frame, then frames of any kind."""
    data = HTTP2_PREFACE + (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" if rng.random() < 0.7 else b"")
    for _ in range(rng.randrange(1, 10)):
        body = rng.randbytes(rng.randrange(0, 60))
        length = rng.choice([len(body), rng.randrange(2**24)])
        kind, flags, stream = (
            rng.randrange(12),
            rng.randrange(256),
            rng.choice([0, 1, 3, rng.randrange(2**32)]),
        )
        data += length.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body
    return data


@pytest.mark.parametrize("make", [noise, lying_headers, mutated_calls, streams, http2])
def test_any_bytes_leave_the_server_well(make: Callable[[random.Random], bytes]) -> None:
    async def scenario() -> None:
        rng = random.Random(f"{make.__name__} 1")  # noqa: S311  # a repeatable test
        unexpected: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unexpected.append(context))
        async with served(Health().router()) as here:
            for _ in range(ROUNDS):
                await throw(here, make(rng))
            await still_answers(here)
            assert here.errors == []
        assert unexpected == []

    run_async(scenario())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=6))
def test_any_pieces_leave_the_server_well(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                for piece in pieces:
                    await raw.send(piece)
                    await asyncio.sleep(0)
            await still_answers(here)

    run_async(scenario())


@pytest.mark.parametrize(
    "opening",
    [
        b"",
        b"\x00",
        HEADER.pack(0xFFFFFFFF, 1, 1, 0),
        HEADER.pack(100, 1, 1, 0) + b"short",
        HTTP2_PREFACE[:10],
        HTTP2_PREFACE,
    ],
    ids=["silence", "one byte", "4 GiB announced", "half a frame", "half a preface", "preface"],
)
def test_a_peer_that_stops_halfway_holds_nobody_up(opening: bytes) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                if opening:
                    await raw.send(opening)
                await still_answers(here)

    run_async(scenario())


def test_a_gigabyte_announced_costs_no_memory() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                await raw.send(HEADER.pack(1 << 30, 1, 1, 0))
                for _ in range(64):
                    await raw.send(bytes(1 << 20))
                assert resident_kib() - before < 16 * 1024
            await still_answers(here)

    before = resident_kib()
    run_async(scenario())


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
