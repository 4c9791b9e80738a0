"""A pool's window with keepers that are shell scripts: who takes gets the pipes, who leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_host.templates.held import HeldVm
from kata_host.templates.pool import Pool
from kata_host.templates.window import SOCKET, open_window, serve, take
from kata_host.vm.base import VmError

DEADLINE_S = 30.0
# A keeper's words without a machine: it stands still, then says what it was told, then waits for the end of its input.
KEEPER = """read order; echo '{"held": "'$order'"}'; read go || exit 0; echo "{\\"went\\": $go}"; cat > /dev/null"""

WHY = "5 restores in a row failed, the last: template one: there is none"


class Made:
    """Every keeper that the pool started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keepers: list[HeldVm] = []
        self.script = KEEPER
        self.told: list[str] = []
        self.may: asyncio.Semaphore | None = None

    async def make(self) -> HeldVm:
        if self.may is not None:
            await self.may.acquire()
        number = len(self.keepers)
        held = await HeldVm.start(f"m{number}", self.folder / "log", ("sh", "-c", self.script))
        self.keepers.append(held)
        return held

    async def wait(self, _: float) -> None:
        """No time passes."""


@asynccontextmanager
async def running(made: Made, size: int = 1) -> AsyncIterator[Path]:
    pool = Pool(size, made.make, made.told.append, made.wait)
    path = made.folder / SOCKET
    with open_window(path) as listener:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(pool.run()), group.create_task(serve(listener, pool))]
            try:
                yield path
            finally:
                for task in tasks:
                    task.cancel()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def start() -> None:
        await test()

    asyncio.run(start())


def test_a_taker_gets_one_that_stands_still_and_lets_it_go_on(made: Made) -> None:
    async def test() -> None:
        async with running(made) as path:
            taken = await take(path)
            assert await taken.go_on({"leash": True}) == {"went": {"leash": True}}
            taken.close()
            await made.keepers[0].wait_end()
            assert taken.name == "m0"

    run(test)


def test_one_that_was_handed_out_outlives_the_pool(made: Made) -> None:
    async def test() -> None:
        async with running(made, 2) as path:
            taken = await take(path)
        assert await taken.go_on({}) == {"went": {}}
        taken.close()
        for keeper in made.keepers:
            await keeper.wait_end()

    run(test)


def test_a_taker_that_goes_before_it_says_go_ends_the_machine(made: Made) -> None:
    async def test() -> None:
        async with running(made) as path:
            taken = await take(path)
            taken.close()
            await made.keepers[0].wait_end()

    run(test)


def test_a_machine_that_dies_in_a_taker_s_hands_is_told(made: Made) -> None:
    async def test() -> None:
        async with running(made) as path:
            taken = await take(path)
            os.killpg(made.keepers[0].pid, signal.SIGKILL)
            await made.keepers[0].wait_end()
            with pytest.raises(VmError, match="m0: it has ended while it stood still"):
                await taken.go_on({})
            taken.close()

    run(test)


class Noting(Pool[HeldVm]):
    """A pool that says when it is asked, and when nobody asks any more."""

    def __init__(self, made: Made) -> None:
        super().__init__(1, made.make, made.told.append, made.wait)
        self.asked, self.left = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def take(self) -> HeldVm:
        self.asked.release()
        try:
            return await super().take()
        finally:
            self.left.release()


def test_a_taker_that_goes_while_it_waits_leaves_its_machine_to_the_next(made: Made) -> None:
    async def test() -> None:
        pool, path = Noting(made), made.folder / SOCKET
        with open_window(path) as listener:
            async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                made.may = asyncio.Semaphore(0)
                tasks = [group.create_task(pool.run()), group.create_task(serve(listener, pool))]
                gone = group.create_task(take(path))
                await pool.asked.acquire()
                here = group.create_task(take(path))
                await pool.asked.acquire()
                gone.cancel()
                await pool.left.acquire()
                made.may.release()
                taken = await here
                for task in tasks:
                    task.cancel()
        assert taken.name == "m0"
        taken.close()
        await made.keepers[0].wait_end()

    run(test)


def test_a_keeper_that_fails_is_told_with_its_words_and_the_taker_hears_why(made: Made) -> None:
    async def test() -> None:
        made.script = """read order; echo '{"error": "template one: there is none"}'"""
        pool = Pool(1, made.make, made.told.append, made.wait)
        with open_window(made.folder / SOCKET) as listener:
            async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                serving = group.create_task(serve(listener, pool))
                group.create_task(expect_end(pool))
                with pytest.raises(VmError, match=f"nothing to hand out: .*{WHY}"):
                    await take(made.folder / SOCKET)
                serving.cancel()
        assert made.told[0] == "restore 1 of 5 failed: template one: there is none"

    run(test)


async def expect_end(pool: Pool[HeldVm]) -> None:
    with pytest.raises(VmError, match=WHY):
        await pool.run()


def test_a_keeper_that_ends_without_a_word_names_its_log(made: Made, tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(VmError, match=rf"its keeper ended without a word; see {tmp_path}/log"):
            await HeldVm.start("one", tmp_path / "log", ("true",))

    run(test)


def test_where_no_pool_is_it_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(VmError, match=r"pool\.sock: no pool answers there: No such file or directory"):
            await take(tmp_path / SOCKET)

    run(test)
