"""How the benchmark tells whose memory is whose."""

from __future__ import annotations

import base64
import mmap
import os
import struct
import zlib
from pathlib import Path

from kata_bench.own_memory import GuestPages, count_dirty, parse_guest_pages, parse_private, read_own_frames

SMAPS = """\
7f0000000000-7f0020000000 rw-p 00000000 fe:00 27                         /a/template/memory
Size:             524288 kB
Private_Clean:    100000 kB
Private_Dirty:     12000 kB
VmFlags: rd wr
7f0040000000-7f0041000000 rw-p 00000000 00:00 0
Private_Dirty:     90000 kB
"""
PAGE = mmap.PAGESIZE


def test_only_dirty_pages_of_the_guests_memory_are_a_machines_own() -> None:
    assert parse_private(SMAPS, ("/memory",)) == 12000 * 1024 / 1e6
    assert parse_private(SMAPS, ("/other",)) == 0


def test_own_pages_are_laid_to_processes_first_and_to_their_kind_else() -> None:
    pages = GuestPages(frozenset({1}), frozenset({1, 2}), bytes([0, 0, 8, 8, 1, 2, 0]))
    found = count_dirty(frozenset({1, 2, 3, 4, 5, 6, 99}), pages)
    mb = 4096 / 1e6
    assert found == {
        "PID 1": mb,
        "agent": mb,
        "processes": mb,
        "free": mb,
        "kernel objects": mb,
        "kernel": 2 * mb,
    }


def test_what_the_guest_prints_is_read_back() -> None:
    parts = {"pid1": struct.pack("=2I", 5, 6), "agent": struct.pack("=1I", 9), "kinds": bytes(12)}
    text = "".join(
        f"{name} {base64.b64encode(zlib.compress(data)).decode()}\n" for name, data in parts.items()
    )
    assert parse_guest_pages(text) == GuestPages(frozenset({5, 6}), frozenset({9}), bytes(12))


def test_pages_written_to_in_a_private_mapping_are_own_frames(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(8 * PAGE))
    with path.open("rb") as file:
        memory = mmap.mmap(
            file.fileno(), 8 * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    with memory:
        assert memory[0] == memory[5 * PAGE] == 0
        assert read_own_frames(os.getpid(), path) == frozenset()
        memory[5 * PAGE] = 0  # the same byte, and yet a write
        memory[7 * PAGE] = 1
        assert read_own_frames(os.getpid(), path) == {5, 7}
