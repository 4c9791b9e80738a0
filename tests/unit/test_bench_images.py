"""How the benchmark reads what a machine's processes have of its memory."""

from __future__ import annotations

from kata_bench.figures.images import parse_mapped

SMAPS = """\
7f0000000000-7f0020000000 rw-s 00000000 00:01 3382                       /memfd:memory-backend-memfd (deleted)
Size:             524288 kB
Rss:              200000 kB
Pss:              150000 kB
SwapPss:               0 kB
VmFlags: rd wr sh
7f0030000000-7f0031e00000 r--s 00000000 fe:00 27                         /a/build/guest/root.erofs
Pss:                6000 kB
7f0040000000-7f0041000000 rw-p 00000000 00:00 0
Pss:               90000 kB
"""


def test_the_guests_memory_and_root_are_counted_by_their_part_and_the_emulators_own_is_not() -> None:
    assert parse_mapped(SMAPS) == 156_000 * 1024 / 1e6
    assert parse_mapped("") == 0
