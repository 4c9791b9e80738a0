"""The pool's rules with members that are no machines: bounded, one made at a time, the dead replaced, failures told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from kata_host.templates.pool import MAX_FAILURES, MAX_WAITING, Pool, PoolError
from kata_host.vm.base import VmError

DEADLINE_S = 60.0


class Fake:
    """A member that dies when told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.closed = False

    async def wait_end(self) -> str:
        return await self.died

    async def close(self) -> None:
        self.closed = True


class Maker:
    """Makes members one after another, as many as it is allowed to; says when two are made at once."""

    def __init__(self) -> None:
        self.made: list[Fake] = []
        self.failing: list[Exception] = []
        self.told: list[str] = []
        self.waits: list[float] = []
        self.busy = False
        self.may = asyncio.Semaphore(0)
        self.changed = asyncio.Event()

    async def make(self) -> Fake:
        assert not self.busy, "two are made at once"
        self.busy = True
        try:
            await self.may.acquire()
            if self.failing:
                raise self.failing.pop(0)
            self.made.append(Fake(len(self.made)))
            return self.made[-1]
        finally:
            self.busy = False

    def tell(self, text: str) -> None:
        self.told.append(text)
        self.changed.set()

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def allow(self, number: int) -> None:
        for _ in range(number):
            self.may.release()

    async def until_told(self, text: str) -> None:
        while not any(text in each for each in self.told):
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def running(size: int, maker: Maker) -> AsyncIterator[Pool[Fake]]:
    pool: Pool[Fake] = Pool(size, maker.make, maker.tell, maker.wait)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        keeping = group.create_task(pool.run())
        await asyncio.sleep(0)
        try:
            yield pool
        finally:
            keeping.cancel()


def run(test: Callable[[Maker], Awaitable[None]]) -> None:
    async def start() -> None:
        await test(Maker())

    asyncio.run(start())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_it_makes_as_many_as_its_size_one_at_a_time_and_no_more() -> None:
    async def test(maker: Maker) -> None:
        maker.allow(10)
        async with running(3, maker) as pool:
            await maker.until_told("3 of 3 ready")
            await settle()
            assert (len(maker.made), pool.ready) == (3, 3)
        assert all(member.closed for member in maker.made), "all are given back at the end"

    run(test)


def test_the_one_that_stood_longest_is_handed_out_and_replaced() -> None:
    async def test(maker: Maker) -> None:
        maker.allow(2)
        async with running(2, maker) as pool:
            await maker.until_told("2 of 2 ready")
            first = await pool.take()
            assert (first.number, pool.ready) == (0, 1)
            maker.told.clear()
            maker.allow(1)
            await maker.until_told("2 of 2 ready")
        assert not first.closed, "it is the taker's"
        assert [member.closed for member in maker.made] == [False, True, True]

    run(test)


def test_who_comes_when_it_is_empty_is_served_in_turn_beyond_its_size() -> None:
    async def test(maker: Maker) -> None:
        async with running(1, maker) as pool, asyncio.TaskGroup() as group:
            takers = [group.create_task(pool.take()) for _ in range(3)]
            await settle()
            maker.allow(4)
            assert [(await taker).number for taker in takers] == [0, 1, 2]
            await maker.until_told("1 of 1 ready")
        assert [member.closed for member in maker.made] == [False, False, False, True]

    run(test)


def test_too_many_who_wait_are_turned_away() -> None:
    async def test(maker: Maker) -> None:
        async with running(1, maker) as pool, asyncio.TaskGroup() as group:
            takers = [group.create_task(pool.take()) for _ in range(MAX_WAITING)]
            await settle()
            with pytest.raises(PoolError, match=f"{MAX_WAITING} wait already; a larger --size helps"):
                await pool.take()
            for taker in takers:
                taker.cancel()

    run(test)


def test_who_went_away_gets_none_and_none_is_lost() -> None:
    async def test(maker: Maker) -> None:
        async with running(1, maker) as pool, asyncio.TaskGroup() as group:
            gone, here = group.create_task(pool.take()), group.create_task(pool.take())
            await settle()
            gone.cancel()
            maker.allow(2)
            assert (await here).number == 0
            await maker.until_told("1 of 1 ready")

    run(test)


def test_one_given_to_who_goes_away_in_that_moment_is_ended() -> None:
    async def test(maker: Maker) -> None:
        async with running(1, maker) as pool, asyncio.TaskGroup() as group:
            taker = group.create_task(pool.take())
            await settle()
            (asked,) = pool._asking
            member = Fake(7)
            asked.set_result(member)
            taker.cancel()
            with suppress(asyncio.CancelledError):
                await taker
            assert taker.cancelled()
            assert member.closed

    run(test)


def test_one_that_dies_while_it_stands_is_replaced_and_never_handed_out() -> None:
    async def test(maker: Maker) -> None:
        maker.allow(3)
        async with running(2, maker) as pool:
            await maker.until_told("2 of 2 ready")
            maker.told.clear()
            maker.made[0].died.set_result("qemu was killed by SIGKILL")
            await maker.until_told("2 of 2 ready")
            assert maker.told[0] == "one that stood still has ended: qemu was killed by SIGKILL"
            assert maker.made[0].closed
            assert [(await pool.take()).number for _ in range(2)] == [1, 2]

    run(test)


def test_a_failure_is_told_and_tried_again_later_and_later() -> None:
    async def test(maker: Maker) -> None:
        maker.failing = [VmError("no template"), OSError(28, "No space left on device")]
        maker.allow(3)
        async with running(1, maker) as pool:
            await maker.until_told("1 of 1 ready")
            assert maker.told == [
                "restore 1 of 5 failed: no template",
                "restore 2 of 5 failed: [Errno 28] No space left on device",
                "1 of 1 ready",
            ]
            assert maker.waits == [0.5, 1.0]
            assert pool.ready == 1

    run(test)


def test_failures_without_end_end_the_pool_with_the_last_reason_for_all_who_wait() -> None:
    async def test(maker: Maker) -> None:
        pool: Pool[Fake] = Pool(2, maker.make, maker.tell, maker.wait)
        maker.allow(1)

        async def wait_in_vain() -> None:
            with pytest.raises(
                PoolError, match="nothing to hand out: 5 restores in a row failed, the last: full"
            ):
                await pool.take()

        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            keeping = group.create_task(expect_end(pool))
            await maker.until_told("1 of 2 ready")
            maker.failing = [VmError("full")] * MAX_FAILURES
            await pool.take()
            group.create_task(wait_in_vain())
            maker.allow(MAX_FAILURES)
            await keeping
        with pytest.raises(PoolError, match="5 restores in a row failed"):
            await pool.take()
        assert maker.waits == [0.5, 1.0, 2.0, 4.0]

    run(test)


async def expect_end(pool: Pool[Fake]) -> None:
    with pytest.raises(PoolError, match="5 restores in a row failed, the last: full"):
        await pool.run()


def test_a_restore_in_the_middle_is_called_off_at_the_end() -> None:
    async def test(maker: Maker) -> None:
        async with running(1, maker):
            await settle()
            assert maker.busy
        assert not maker.busy

    run(test)
