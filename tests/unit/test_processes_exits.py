"""The exit book: recorded once, told before and after, bounded."""

from __future__ import annotations

import asyncio

import pytest

from kata_agent.processes.exits import ExitBook, exactly, since
from kata_agent.processes.spawn import Child
from kata_init.exits import Exit
from kata_testing.wire import run_async


def ended(pid: int, start_time: int, code: int = 0) -> Exit:
    return Exit(pid, start_time, code, None, 0)


def test_an_exit_before_the_watcher_is_kept_for_it():
    book, seen = ExitBook(), []
    book.record(ended(5, 100, 3))
    book.watch(5, exactly(100), seen.append)
    assert [entry.code for entry in seen] == [3]


def test_without_a_limit_everything_is_kept_until_it_is_bounded():
    forgotten: list[tuple[int, int]] = []
    book, seen = ExitBook(limit=None, forget=lambda *who: forgotten.append(who)), []
    for pid in range(3000):
        book.record(ended(pid, 100))
    assert forgotten == []
    book.watch(0, exactly(100), seen.append)
    assert len(seen) == 1, "the oldest is there while an agent adopts"
    book.bound(1024)
    assert forgotten == [(pid, 100) for pid in range(1, 3000 - 1024)]
    book.record(ended(5000, 100))
    assert len(forgotten) == 3000 - 1024


def test_an_exit_after_the_watcher_is_told_once():
    book, seen = ExitBook(), []
    book.watch(5, exactly(100), seen.append)
    book.record(ended(5, 100))
    book.record(ended(5, 100))
    assert len(seen) == 1


def test_the_exit_of_another_process_of_the_same_pid_is_not_taken():
    book, seen = ExitBook(), []
    book.record(ended(5, 99))
    book.watch(5, exactly(100), seen.append)
    assert seen == []
    book.record(ended(5, 100))
    assert [entry.start_time for entry in seen] == [100]


def test_a_process_that_was_gone_at_once_is_found_by_the_start_of_its_parent():
    book, seen = ExitBook(), []
    book.record(ended(5, 50, 1))
    book.record(ended(5, 120, 2))
    book.watch(5, since(110), seen.append)
    assert [entry.code for entry in seen] == [2]


def test_an_unreadable_start_time_fits_its_pid():
    book, seen = ExitBook(), []
    book.watch(5, exactly(100), seen.append)
    book.record(ended(5, 0, 4))
    assert [entry.code for entry in seen] == [4]


def test_unclaimed_exits_are_bounded_and_the_oldest_is_forgotten():
    forgotten = []
    book = ExitBook(forget=lambda pid, start_time: forgotten.append((pid, start_time)), limit=2)
    for pid in (1, 2, 3):
        book.record(ended(pid, 10))
    assert forgotten == [(1, 10)]
    seen = []
    book.watch(1, exactly(10), seen.append)
    book.watch(2, exactly(10), seen.append)
    assert [entry.pid for entry in seen] == [2]


@pytest.mark.parametrize("exit_first", [True, False])
def test_an_exit_that_comes_together_with_the_cancellation_is_there_for_who_asks_next(exit_first):
    async def body():
        book = ExitBook()
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(book.wait_exit(5, 100))
            await asyncio.sleep(0)
            if exit_first:
                book.record(ended(5, 100, 7))
            waiter.cancel()
            if not exit_first:
                book.record(ended(5, 100, 7))
        assert (await book.wait_exit(5, 100)).code == 7

    run_async(body())


def test_a_cancelled_wait_leaves_no_watcher():
    async def body():
        book = ExitBook()
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(book.wait_exit(5, 100))
            await asyncio.sleep(0)
            waiter.cancel()
        book.record(ended(5, 100, 7))
        assert (await book.wait_exit(5, 100)).code == 7

    run_async(body())


def test_a_child_that_ended_as_its_waiter_was_cancelled_is_not_signalled():
    async def body():
        book = ExitBook()
        gone = Child(2**22 + 1, 100)  # above the kernel's largest pid: a signal to it would be an error
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(book.wait_exit(*gone))
            await asyncio.sleep(0)
            waiter.cancel()
            book.record(ended(*gone))
        await book.end(gone, 60)

    run_async(body())
