"""The agent's side of PID 1's channel, against PID 1's own side."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from kata_agent.log import Log
from kata_agent.processes.exits import ExitBook
from kata_agent.supervisor import LISTEN, Supervisor
from kata_init import control
from kata_init.exits import Exit
from kata_init.fdstore import FdStore
from kata_init.ledger import Ledger
from kata_testing.wire import run_async

ENDED = Exit(pid=7, start_time=70, code=3, signal=None, time_ns=1)


class Pair:
    """Both ends, and what the agent's end was told."""

    def __init__(self, log: Log, stored: dict[str, tuple[int, ...]] | None = None) -> None:
        self.ledger = Ledger()
        self.store = FdStore()
        for name, fds in (stored or {}).items():
            self.store.put(name, fds)
        self.exits = ExitBook()
        self.gone = asyncio.Event()
        self.init, agent = control.make_pair(self.ledger, self.store)
        self.supervisor = Supervisor(agent, self.exits, log, self.gone.set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        self.supervisor.start()
        try:
            yield self.supervisor
        finally:
            self.supervisor.close()
            self.init.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_everything_that_was_kept_is_there_when_synced(pipe: tuple[int, int]) -> None:
    async def work() -> None:
        pair = Pair(Log(pipe[1]), {LISTEN: (os.dup(pipe[0]),)})
        pair.ledger.add(ENDED)
        async with pair.running() as supervisor:
            pair.init.pump()
            await supervisor.wait_synced()
            (fd,) = supervisor.take(LISTEN)
            os.close(fd)
            assert supervisor.take(LISTEN) == ()
            assert await pair.exits.wait_exit(7, 70) == ENDED

    run_async(work())


def test_exit_that_is_reaped_later_reaches_its_waiter(pipe: tuple[int, int]) -> None:
    async def work() -> None:
        pair = Pair(Log(pipe[1]))
        async with pair.running() as supervisor:
            pair.init.pump()
            await supervisor.wait_synced()
            async with asyncio.TaskGroup() as group:
                waiter = group.create_task(pair.exits.wait_exit(7, 70))
                await asyncio.sleep(0)
                pair.ledger.add(ENDED)
                pair.init.pump()
            assert waiter.result() == ENDED

    run_async(work())


def test_what_the_agent_says_arrives_in_order(pipe: tuple[int, int]) -> None:
    async def work() -> None:
        pair = Pair(Log(pipe[1]))
        async with pair.running() as supervisor:
            supervisor.store("x", (pipe[0],))
            supervisor.discard("x")
            supervisor.ready()
            supervisor.shutdown()
            packets = pair.init.receive()
            assert [type(packet) for packet in packets] == [
                control.Store,
                control.Discard,
                control.Ready,
                control.Shutdown,
            ]
            assert isinstance(packets[0], control.Store)
            for fd in packets[0].fds:
                os.close(fd)

    run_async(work())


def test_pid_1_gone_ends_the_agent_and_is_logged(pipe: tuple[int, int]) -> None:
    async def work() -> None:
        pair = Pair(Log(pipe[1]))
        pair.supervisor.start()
        pair.init.close()
        await pair.gone.wait()
        pair.supervisor.close()
        assert "PID 1 closed the control channel" in json.loads(os.read(pipe[0], 65536))["msg"]

    run_async(work())


def test_refusal_is_logged_with_name_and_reason(pipe: tuple[int, int]) -> None:
    async def work() -> None:
        pair = Pair(Log(pipe[1]))
        async with pair.running() as supervisor:
            pair.init.refuse("container/c1", "full")
            pair.init.pump()
            await supervisor.wait_synced()
            pair.init.pump()
            while True:
                try:
                    record = json.loads(os.read(pipe[0], 65536))
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
        assert (record["entry"], record["reason"]) == ("container/c1", "full")

    run_async(work())


def test_descriptors_that_nobody_took_are_closed_at_the_end(pipe: tuple[int, int]) -> None:
    async def work() -> int:
        pair = Pair(Log(pipe[1]), {"left": (os.dup(pipe[0]),)})
        async with pair.running() as supervisor:
            pair.init.pump()
            await supervisor.wait_synced()
            (fd,) = supervisor.stored["left"]
        return fd

    fd = run_async(work())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
