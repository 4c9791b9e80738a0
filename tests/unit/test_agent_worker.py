"""Kernel calls in threads: results, errors, the limit, and a cancellation that loses nothing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kata_agent.errors import TimedOut
from kata_agent.worker import Doubtful, Worker
from kata_testing.wire import run_async


def test_result_and_error_come_back_from_a_thread_of_its_own() -> None:
    async def work() -> None:
        worker = Worker(1)
        assert await worker.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)

    run_async(work())


def test_loop_goes_on_while_a_call_blocks() -> None:
    async def work() -> None:
        gate = threading.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(Worker(1).run(gate.wait))
            await asyncio.sleep(0)
            assert not task.done()
            gate.set()
        assert task.result()

    run_async(work())


def test_no_more_than_the_limit_run_at_once() -> None:
    async def work() -> None:
        worker = Worker(2)
        running, most = 0, 0
        lock = threading.Lock()
        barrier = threading.Barrier(2)

        def call() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            barrier.wait(timeout=60)
            with lock:
                running -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(worker.run(call))
        assert most == 2

    run_async(work())


def test_cancelled_call_still_gives_its_result_and_the_cancellation_follows() -> None:
    async def work() -> None:
        started, gate = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        kept: list[str] = []

        def call() -> str:
            loop.call_soon_threadsafe(started.set)
            gate.wait(60)
            return "made"

        async def user() -> None:
            kept.append(await Worker(1).run(call))
            await asyncio.sleep(60)

        task = loop.create_task(user())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert kept == ["made"]

    run_async(work())


def test_cancelled_while_it_waits_for_its_turn_never_runs() -> None:
    async def work() -> None:
        worker = Worker(1)
        gate = threading.Event()
        ran: list[int] = []
        loop = asyncio.get_running_loop()
        first = loop.create_task(worker.run(gate.wait))
        await asyncio.sleep(0)
        second = loop.create_task(worker.run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        await first
        assert ran == []

    run_async(work())


def test_deadline_around_a_call_is_still_a_timeout() -> None:
    async def work() -> None:
        gate = threading.Event()
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, gate.set)

        async def late() -> None:
            async with asyncio.timeout(0.01):
                await Worker(1).run(gate.wait)
                await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            await late()

    run_async(work())


def test_call_that_does_not_come_back_is_given_up_and_counts_until_it_does() -> None:
    async def work() -> None:
        gate, left = threading.Event(), threading.Event()

        def hang() -> None:
            gate.wait()
            left.set()

        doubtful = Doubtful(1, 0.01)
        with pytest.raises(TimedOut, match=r"^look: no answer within 0\.01 s$"):
            await doubtful.run("look", hang)
        with pytest.raises(TimedOut, match=r"^other: 1 calls like it have not come back yet$"):
            await doubtful.run("other", hang)
        gate.set()
        assert left.wait(30)
        patient = Doubtful(1, 30)
        assert await patient.run("look", lambda: 7) == 7
        assert await patient.run("look", lambda: 8) == 8

    run_async(work())


def test_error_of_a_doubtful_call_is_its_own_also_a_timeout() -> None:
    def fail() -> None:
        raise TimeoutError(110, "from the kernel")

    async def work() -> None:
        with pytest.raises(TimeoutError, match="from the kernel"):
            await Doubtful(1, 30).run("look", fail)

    run_async(work())
