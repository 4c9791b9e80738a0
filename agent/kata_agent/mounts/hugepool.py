"""Huge pages for volumes: what each needs is added to the kernel's pool, and taken from it when the volume goes.

Owns: the arithmetic on the pool, one change at a time. Must not know: volumes. The pool itself is the ledger: a second
volume adds to what the first one and the kernel's command line asked for (Kata's agent sets the figure and so
takes the first one's pages). Blocking: memory is moved to make room.
"""

from __future__ import annotations

import threading
from typing import Protocol

from kata_agent.errors import Exhausted, InvalidRequest
from kata_linux import hugepages

_changing = threading.Lock()


class Kernel(Protocol):
    """The pools: `kata_linux.hugepages`."""

    def list_sizes(self) -> list[int]:
        """Page sizes in bytes."""

    def read_pool(self, page_size: int) -> int:
        """Pages in the pool."""

    def write_pool(self, page_size: int, pages: int) -> None:
        """Ask for so many."""

    def compact(self) -> None:
        """Make room."""


def reserve(page_size: int, pages: int, kernel: Kernel = hugepages) -> None:
    """Grow the pool by so many pages, or leave it as it was. Raises `InvalidRequest`, `Exhausted`."""
    if page_size not in (sizes := kernel.list_sizes()):
        have = ", ".join(map(str, sizes)) or "none"
        raise InvalidRequest(
            f"pagesize={page_size}: the kernel has no huge pages of this size (it has: {have})"
        )
    with _changing:
        before = kernel.read_pool(page_size)
        after = _grow(kernel, page_size, before + pages)
        if after < before + pages:
            kernel.compact()
            after = _grow(kernel, page_size, before + pages)
        if after < before + pages:
            kernel.write_pool(page_size, before)
            got = max(after - before, 0)
            raise Exhausted(f"Only allocated {got} of {pages} hugepages of size {page_size}")


def give_back(page_size: int, pages: int, kernel: Kernel = hugepages) -> None:
    """Shrink the pool by so many pages."""
    with _changing:
        kernel.write_pool(page_size, max(kernel.read_pool(page_size) - pages, 0))


def _grow(kernel: Kernel, page_size: int, wanted: int) -> int:
    kernel.write_pool(page_size, wanted)
    return kernel.read_pool(page_size)
