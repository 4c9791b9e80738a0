"""What a machine's keeper is asked: steps, an answer, and a call that is taken back by whoever leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kata_host.vm.base import GuestFiles, VmConfig, VmError
from kata_host.vm.keeper import Order, dump_order, load_order
from kata_host.vm.keeper_calls import SOCKET, Answer, Note, call, open_calls, serve_calls

DEADLINE_S = 30.0


@asynccontextmanager
async def served(folder: Path, answer: Answer) -> AsyncIterator[Path]:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        serving = group.create_task(serve_calls(open_calls(folder), answer))
        yield folder / SOCKET
        serving.cancel()


class Undoing:
    """A call that never ends by itself, and takes a moment to undo."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.undone = asyncio.Event()

    async def answer(self, request: dict[str, Any], note: Note) -> object:
        note("begun")
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.undone.set()
        return None


def test_steps_come_before_the_answer(tmp_path: Path) -> None:
    async def answer(request: dict[str, Any], note: Note) -> object:
        note("one")
        note("two")
        return {"asked": request}

    async def run() -> None:
        async with served(tmp_path, answer) as socket:
            for _ in range(2):
                steps: list[str] = []
                assert await call(socket, {"call": "x"}, steps.append) == {"asked": {"call": "x"}}
                assert steps == ["one", "two"]

    asyncio.run(run())


def test_a_failure_is_told_in_its_own_words_and_the_next_call_is_answered(tmp_path: Path) -> None:
    async def answer(request: dict[str, Any], note: Note) -> object:
        if request["call"] == "bad":
            raise VmError("no room")
        return "good"

    async def run() -> None:
        async with served(tmp_path, answer) as socket:
            with pytest.raises(VmError, match=r"^no room$"):
                await call(socket, {"call": "bad"}, print)
            assert await call(socket, {"call": "good"}, print) == "good"

    asyncio.run(run())


def test_who_is_cancelled_returns_when_all_is_undone(tmp_path: Path) -> None:
    async def run() -> None:
        work = Undoing()
        async with served(tmp_path, work.answer) as socket, asyncio.TaskGroup() as group:
            calling = group.create_task(call(socket, {"call": "x"}, print))
            await work.begun.wait()
            calling.cancel()
            await asyncio.wait([calling])
            assert work.undone.is_set()

    asyncio.run(run())


def test_who_is_killed_has_taken_the_call_back(tmp_path: Path) -> None:
    async def run() -> None:
        work = Undoing()
        async with served(tmp_path, work.answer) as socket:
            _, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(b'{"call": "x"}\n')
            await work.begun.wait()
            writer.transport.abort()  # what a kernel does for a process that is gone
            await work.undone.wait()

    asyncio.run(run())


def test_nonsense_stops_nobody_else(tmp_path: Path) -> None:
    async def answer(request: dict[str, Any], note: Note) -> object:
        return "answered"

    async def run() -> None:
        async with served(tmp_path, answer) as socket:
            for nonsense in (b"", b"{\n", b"x" * 100_000):
                reader, writer = await asyncio.open_unix_connection(str(socket))
                writer.write(nonsense)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            assert await call(socket, {"call": "x"}, print) == "answered"

    asyncio.run(run())


def test_a_machine_that_nobody_keeps_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(VmError, match=r"nobody keeps the machine there \(No such file or directory\)"):
        asyncio.run(call(tmp_path / SOCKET, {}, print))


def test_an_order_is_read_as_it_was_written() -> None:
    config = VmConfig(GuestFiles(Path("/k"), Path("/i")), savable=True)
    for order in (Order(config), Order(replace(config, name="two"), Path("/saved"))):
        assert load_order(dump_order(order)) == order
