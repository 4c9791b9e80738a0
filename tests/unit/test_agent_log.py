"""The log's lines, and that a reader who is behind never stops the agent."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator

import pytest

from kata_agent import log
from kata_testing.wire import run_async


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_record_has_kata_s_keys_and_only_strings(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log.Log(writer).info("rpc", 'said "hi"\n', status=13)
    (line,) = os.read(reader, 65536).splitlines()
    record = json.loads(line)
    assert all(isinstance(value, str) for value in record.values())
    assert record["msg"] == 'said "hi"\n'
    assert {key: record[key] for key in ("level", "subsystem", "name", "source", "version", "status")} == {
        "level": "INFO",
        "subsystem": "rpc",
        "name": "kata-agent",
        "source": "agent",
        "version": "0.1.0",
        "status": "13",
    }


def test_records_below_the_level_are_not_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logger = log.Log(writer, "error")
    logger.warning("rpc", "no")
    logger.error("rpc", "yes")
    assert [json.loads(line)["msg"] for line in os.read(reader, 65536).splitlines()] == ["yes"]


def test_full_pipe_drops_records_and_tells_how_many_later(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    logger = log.Log(writer)
    for _ in range(100):
        logger.info("rpc", "x" * 500)
    while True:
        try:
            os.read(reader, 65536)
        except BlockingIOError:
            break
    logger.info("rpc", "after")
    record = json.loads(os.read(reader, 65536))
    assert record["msg"] == "after"
    assert 0 < int(record["dropped-records"]) < 100


def test_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        log.Log(writer).info("rpc", "nobody hears")
    finally:
        os.close(writer)


def test_line_is_valid_json_within_the_atomic_size_however_long_the_values() -> None:
    fields: dict[str, object] = {"error": "\0" * 100_000, "trace": "é" * 100_000}
    line = log.render("error", "rpc", "m" * 10_000, fields, 0, 1)
    assert len(line) <= log.LINE_LIMIT_BYTES
    assert json.loads(line)["ts"] == "1970-01-01T00:00:00.000000000Z"


def test_terminal_that_nobody_reads_never_blocks_and_others_keep_their_flags() -> None:
    master, slave = os.openpty()
    try:
        logger = log.Log(slave)
        for _ in range(200):
            logger.info("rpc", "x" * 1000)
        assert os.get_blocking(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_terminal_that_is_slow_gets_every_record_whole_and_in_order() -> None:
    count = 60

    async def run() -> bytes:
        master, slave = os.openpty()
        try:
            logger = log.Log(slave)
            for number in range(count):  # many times what a terminal takes at once
                logger.info("rpc", str(number), text="x" * 500)
            said, ended = b"", asyncio.Event()

            def read() -> None:
                nonlocal said
                said += os.read(master, 65536)
                if said.count(b"\n") == count:
                    ended.set()

            asyncio.get_running_loop().add_reader(master, read)
            await ended.wait()
            asyncio.get_running_loop().remove_reader(master)
            logger.info("rpc", "after")
            return said + os.read(master, 65536)
        finally:
            os.close(master)
            os.close(slave)

    records = [json.loads(line) for line in run_async(run()).splitlines()]
    assert [record["msg"] for record in records] == [*map(str, range(count)), "after"]
    assert not any("dropped-records" in record for record in records)


def test_terminal_that_takes_nothing_loses_records_beyond_the_limit_and_is_told_how_many() -> None:
    async def run() -> tuple[int, bytes]:
        master, slave = os.openpty()
        try:
            logger = log.Log(slave)
            for number in range(200):
                logger.info("rpc", str(number), text="x" * 500)
            said, told = b"", asyncio.Event()

            def read() -> None:
                nonlocal said
                said += os.read(master, 65536)
                if b"dropped-records" in said and said.endswith(b"\n"):
                    told.set()
                elif said.endswith(b"\n"):
                    logger.info("rpc", "later")

            asyncio.get_running_loop().add_reader(master, read)
            await told.wait()
            asyncio.get_running_loop().remove_reader(master)
            return logger._dropped, said
        finally:
            os.close(master)
            os.close(slave)

    left, said = run_async(run())
    records = [json.loads(line) for line in said.splitlines()]
    numbers = [record["msg"] for record in records if record["msg"] != "later"]
    told = next(int(record["dropped-records"]) for record in records if "dropped-records" in record)
    assert numbers == list(map(str, range(len(numbers))))
    assert told == 200 - len(numbers) > 0
    assert left == 0
