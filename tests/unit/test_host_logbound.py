"""Logs of a machine stay bounded while somebody writes them, and the newest bytes stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kata_host.vm.logbound import bound_logs, give_back
from kata_testing.fake_host import run

LIMIT, KEPT = 1 << 20, 256 << 10
LINE = b"%07d\n"
# What is kept has whole blocks, and the file system may need some of its own to say where they are.
SLACK = 64 << 10


def write_lines(path: Path, first: int, count: int) -> None:
    with path.open("ab") as file:
        file.write(b"".join(LINE % number for number in range(first, first + count)))


def held_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_the_oldest_goes_the_newest_stays_and_offsets_keep_their_meaning(tmp_path: Path) -> None:
    log, other = tmp_path / "console.log", tmp_path / "vm.json"
    for path in (log, other):
        write_lines(path, 0, 200_000)
    before = log.read_bytes()
    give_back(tmp_path, LIMIT, KEPT)
    after = log.read_bytes()
    assert held_bytes(log) <= KEPT + SLACK
    assert len(after) == len(before)
    assert after[-KEPT:] == before[-KEPT:]
    assert set(after[: -KEPT - 4096]) == {0}
    assert other.read_bytes() == before, "only logs are cut"


def test_a_log_below_the_limit_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "qemu.log"
    write_lines(log, 0, 1000)
    before = log.read_bytes()
    give_back(tmp_path, LIMIT, KEPT)
    assert log.read_bytes() == before


def test_a_log_that_goes_on_growing_is_cut_again_and_again(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    held: list[int] = []
    full = asyncio.Event()

    async def between() -> None:
        """A look is about to follow; the last one has left this."""
        held.append(held_bytes(log))
        write_lines(log, 200_000 * len(held), 200_000)
        if len(held) == 5:
            full.set()

    async def body() -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            bounding = group.create_task(bound_logs(tmp_path, LIMIT, KEPT, between=between))
            await asyncio.sleep(0)  # it watches now
            write_lines(log, 0, 200_000)
            await full.wait()
            bounding.cancel()

    run(body())
    assert held[0] > LIMIT
    assert max(held[1:]) <= KEPT + SLACK
    assert log.read_bytes()[-8:] == LINE % 1_199_999
