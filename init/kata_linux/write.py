"""Writing all of it: write(2) and pwrite(2) may take less than they are given.

Owns: the loop. Must not know: what is written. For descriptors that block; OSError of the call that failed.
"""

from __future__ import annotations

import os


def write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    """Write every byte, at the descriptor's own position or, without moving that, at `offset`."""
    left = memoryview(data)
    while left:
        count = os.write(fd, left) if offset is None else os.pwrite(fd, left, offset)
        left = left[count:]
        if offset is not None:
            offset += count
