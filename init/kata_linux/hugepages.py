"""Pools of huge pages: /sys/kernel/mm/hugepages (Documentation/admin-guide/mm/hugetlbpage.rst).

Owns: the files. Must not know: who needs how many. A pool that cannot grow as far as was asked grows as far as it can,
without an error: read it again. Files are opened without create, so a page size that the kernel lacks is ENOENT.
"""

from __future__ import annotations

import os

SYS = "/sys/kernel/mm/hugepages"
COMPACT = "/proc/sys/vm/compact_memory"


def list_sizes(*, sys: str = SYS) -> list[int]:
    """The page sizes in bytes that this kernel has pools for."""
    try:
        names = os.listdir(sys)
    except FileNotFoundError:
        return []
    return sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024 for name in names)


def read_pool(page_size: int, *, sys: str = SYS) -> int:
    """How many pages of this size are in the pool, used or not."""
    with open(_file(page_size, sys), encoding="ascii") as file:
        return int(file.read())


def write_pool(page_size: int, pages: int, *, sys: str = SYS) -> None:
    """Ask for a pool of so many pages; those in use stay until they are freed."""
    _write(_file(page_size, sys), str(pages))


def compact(path: str = COMPACT) -> None:
    """Move pages in use together, so that large ones are found. Nothing where the kernel cannot."""
    if os.path.exists(path):
        _write(path, "1")


def _file(page_size: int, sys: str) -> str:
    return f"{sys}/hugepages-{page_size // 1024}kB/nr_hugepages"


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
