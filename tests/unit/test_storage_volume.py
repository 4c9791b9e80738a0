"""Looking at volumes: figures, and a share that does not answer."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from kata_agent.log import Log
from kata_agent.mounts import stale
from kata_agent.mounts.volume import Usage
from kata_agent.worker import Doubtful
from kata_linux.growfs import read_disk_size
from kata_testing.wire import run_async


def test_used_is_what_is_not_available() -> None:
    assert Usage(total=10, available=4).used == 6


def test_size_of_a_disk_is_in_sectors_of_512_bytes(tmp_path: Path) -> None:
    (tmp_path / "dev/block/7:1").mkdir(parents=True)
    (tmp_path / "dev/block/7:1/size").write_text("3\n")
    assert read_disk_size("7:1", sys=str(tmp_path)) == 1536


def look_at_shares(look: object, deadline_s: float) -> str:
    """What is logged when the mounts below / are taken for those of the share."""
    reader, writer = os.pipe()

    async def work() -> None:
        assert callable(look)
        await stale.touch_share_mounts(Doubtful(1, deadline_s), Log(writer), look, share="/p")

    run_async(work())
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        return file.read()


def test_mount_whose_source_is_gone_is_logged_and_the_rest_is_looked_at() -> None:
    looked: list[str] = []

    def look(path: str) -> None:
        looked.append(path)
        if path == "/proc":
            raise FileNotFoundError(2, "No such file or directory", path)

    said = look_at_shares(look, 30)
    assert "stale mount of the share" in said
    assert "/proc: ENOENT" in said
    assert "/proc" in looked


def test_share_that_does_not_answer_is_left_alone_and_named() -> None:
    gate = threading.Event()
    said = look_at_shares(lambda _: gate.wait(), 0.01)
    gate.set()
    assert "share does not answer" in said
    assert "/proc" in said
    assert "no answer within 0.01 s" in said
