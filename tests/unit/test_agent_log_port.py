"""The log port: every reader gets whole lines, a slow one loses some and is told, and none holds the agent back."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from kata_agent.log import Log
from kata_agent.log_port import READERS, LogPort, is_host
from kata_host.guest_port import read_lines
from kata_protocols.aio.dial import connect_once
from kata_protocols.aio.listen import open_listener
from kata_testing.wire import fresh_address, run_async


def describe_loss(count: int) -> bytes:
    return b"lost %d\n" % count


class Rig:
    """A port and its readers."""

    def __init__(self, **limits: int) -> None:
        self.address = fresh_address()
        self.port = LogPort(open_listener(self.address), describe_loss, **limits)
        self.readers: list[socket.socket] = []

    async def dial(self) -> AsyncIterator[bytes]:
        connection = await connect_once(self.address)
        self.readers.append(connection)
        return read_lines(connection)


@asynccontextmanager
async def rig(**limits: int) -> AsyncIterator[Rig]:
    made = Rig(**limits)
    try:
        yield made
    finally:
        made.port.close()
        for reader in made.readers:
            reader.close()


def test_reader_gets_what_was_said_before_it_came_and_what_comes_after() -> None:
    async def body() -> None:
        async with rig() as made:
            made.port.write(b"one\n")
            first = await made.dial()
            assert await anext(first) == b"one"
            made.port.write(b"two\n")
            second = await made.dial()
            assert [await anext(first), await anext(second), await anext(second)] == [b"two", b"one", b"two"]

    run_async(body())


def test_only_the_newest_lines_are_kept_for_who_comes_later() -> None:
    async def body() -> None:
        async with rig(history_bytes=30) as made:
            for number in range(10):
                made.port.write(b"line %04d\n" % number)
            assert await anext(await made.dial()) == b"line 0007"

    run_async(body())


def test_slow_reader_loses_whole_lines_and_is_told_how_many_while_others_lose_none() -> None:
    async def body() -> None:
        async with rig(buffer_bytes=64 << 10, history_bytes=16) as made:
            slow, quick = await made.dial(), await made.dial()
            made.port.write(b"first\n")
            assert [await anext(slow), await anext(quick)] == [b"first", b"first"]
            for number in range(3000):
                made.port.write(b"%d" % number + b"x" * 1000 + b"\n")
                assert (await anext(quick)).startswith(b"%dx" % number)
            assert made.port.dropped > 1000
            seen, expected = [], 0
            while not seen or not seen[-1].startswith(b"lost"):
                seen.append(await anext(slow))
                if not seen[-1].startswith(b"lost"):
                    assert seen[-1] == b"%d" % expected + b"x" * 1000
                    expected += 1
                if expected == 3000 - made.port.dropped:
                    made.port.write(b"last\n")
            assert seen[-1] == b"lost %d" % made.port.dropped
            assert await anext(slow) == b"last"

    run_async(body())


def test_reader_that_goes_away_is_forgotten_and_one_too_many_is_turned_away() -> None:
    async def body() -> None:
        async with rig() as made:
            made.port.write(b"hello\n")
            readers = [await made.dial() for _ in range(READERS)]
            assert [await anext(reader) for reader in readers] == [b"hello"] * READERS
            assert [line async for line in await made.dial()] == []
            made.readers[0].close()
            while (line := await anext(await made.dial(), None)) is None:
                pass  # it has not been seen to go yet
            assert line == b"hello"

    run_async(body())


def test_reader_that_is_far_behind_gives_its_place_to_one_that_comes() -> None:
    """Of the end of a killed reader a VMM's vsock device may never tell."""

    async def body() -> None:
        async with rig(buffer_bytes=4096, history_bytes=16) as made:
            readers = [await made.dial() for _ in range(READERS)]
            made.port.write(b"hello\n")
            assert [await anext(reader) for reader in readers] == [b"hello"] * READERS
            while not made.port.dropped:  # the first one reads no more
                made.port.write(b"x" * 1000 + b"\n")
                for reader in readers[1:]:
                    await anext(reader)
            late = await made.dial()
            made.port.write(b"news\n")
            assert await anext(late) == b"news"
            assert await anext(readers[1]) == b"news", "who reads keeps its place"
            assert [line async for line in await made.dial()] == []

    run_async(body())


@pytest.mark.parametrize(("peer", "host"), [((2, 5), True), ((3, 5), False), ((1, 5), False), ("", True)])
def test_on_vsock_only_the_host_may_read(peer: object, host: bool) -> None:
    assert is_host(peer) == host


@pytest.fixture
def log() -> Iterator[Log]:
    reader, writer = os.pipe()
    yield Log(writer)
    os.close(reader)
    os.close(writer)


def test_a_sink_hears_of_the_start_and_then_of_everything_at_the_level_in_force(log: Log) -> None:
    lines: list[bytes] = []
    log.info("root", "announce")
    log.attach(lines.append)
    log.forget_early()
    log.debug("root", "not yet")
    log.set_level("debug")
    log.debug("root", "now")
    assert [json.loads(line)["msg"] for line in lines] == ["announce", "now"]
    assert log.level == "debug"


def test_a_record_costs_microseconds_when_a_reader_is_behind(log: Log) -> None:
    """Not a benchmark: a write that waited for its reader would take for ever."""

    async def body() -> None:
        async with rig() as made:
            await made.dial()
            log.attach(made.port.write)
            started = time.monotonic()
            for _ in range(2000):
                log.info("root", "x" * 1000)
            assert time.monotonic() - started < 20

    run_async(body())
