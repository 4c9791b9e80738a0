"""What PID 1 keeps: the exit ledger and the descriptor store, their bounds, and when the agent is started again."""

from __future__ import annotations

import os

import pytest

from kata_init.backoff import ATTEMPTS, Backoff
from kata_init.exits import Exit, reap
from kata_init.fdstore import FdStore, StoreFullError
from kata_init.ledger import Ledger


def make_exit(pid: int, code: int = 0) -> Exit:
    return Exit(pid=pid, start_time=1, code=code, signal=None, time_ns=0)


def test_the_ledger_gives_what_came_since_a_cursor() -> None:
    ledger = Ledger()
    for pid in (1, 2, 3):
        ledger.add(make_exit(pid))
    assert [entry.pid for _, entry in ledger.since(0)] == [1, 2, 3]
    assert [entry.pid for _, entry in ledger.since(2)] == [3]
    assert ledger.since(3) == []


def test_a_full_ledger_drops_the_oldest_and_counts_it() -> None:
    ledger = Ledger(limit=2)
    for pid in (1, 2, 3):
        ledger.add(make_exit(pid))
    assert [entry.pid for _, entry in ledger.since(0)] == [2, 3]
    assert ledger.dropped == 1
    assert ledger.find(1, 1) is None


def test_a_forgotten_exit_is_gone_and_no_other() -> None:
    ledger = Ledger()
    ledger.add(make_exit(1))
    ledger.add(make_exit(2))
    assert ledger.forget(1, 1)
    assert not ledger.forget(1, 1)
    assert not ledger.forget(2, 99)
    assert len(ledger) == 1
    assert ledger.find(2, 1) == make_exit(2)


def test_a_pid_that_is_used_again_is_another_process() -> None:
    ledger = Ledger()
    ledger.add(make_exit(1, 3))
    ledger.add(make_exit(1, 4)._replace(start_time=2))
    first, second = ledger.find(1, 1), ledger.find(1, 2)
    assert first is not None
    assert second is not None
    assert (first.code, second.code) == (3, 4)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_store_closes_what_it_discards_and_replaces() -> None:
    store = FdStore()
    first, second, third = (os.open("/dev/null", os.O_RDONLY) for _ in range(3))
    store.put("a", (first,))
    store.put("a", (second, third))
    assert not is_open(first)
    assert store.get("a") == (second, third)
    store.discard("a")
    store.discard("a")
    assert not is_open(second)
    assert store.count == 0


def test_a_full_store_refuses_by_name_closes_the_new_and_keeps_the_old() -> None:
    store = FdStore(limit=1)
    kept, refused = (os.open("/dev/null", os.O_RDONLY) for _ in range(2))
    store.put("kept", (kept,))
    with pytest.raises(StoreFullError, match="'new' with 1 is refused: 1 of 1 descriptors are held"):
        store.put("new", (refused,))
    assert is_open(kept)
    assert not is_open(refused)
    store.close()
    assert not is_open(kept)


def test_the_first_restart_is_immediate_later_ones_wait_longer_and_then_it_is_enough() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay_ns() for _ in range(ATTEMPTS)]
    assert delays[:3] == [0, 50_000_000, 100_000_000]
    assert delays[-2] == 1_000_000_000
    assert delays[-1] is None


def test_ready_forgives_every_failure_before_it() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.next_delay_ns()
    backoff.forgive()
    assert backoff.next_delay_ns() == 0


@pytest.mark.parametrize(("exit_", "status"), [((7, None), 7), ((None, 9), 137)])
def test_a_status_is_what_a_shell_would_tell(exit_: tuple[int | None, int | None], status: int) -> None:
    assert Exit(1, 1, *exit_, 0).status == status


def test_reap_reads_the_start_time_before_the_zombie_is_gone() -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(7)
    from kata_linux import procfs

    start_time = procfs.read_start_time(pid)
    os.close(write_end)
    os.close(read_end)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended = {entry.pid: entry for entry in reap()}[pid]
    assert (ended.start_time, ended.code, ended.signal) == (start_time, 7, None)
    assert pid not in {entry.pid for entry in reap()}
