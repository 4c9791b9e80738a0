"""Swapping: swapon(2) and swapoff(2). Errors to expect: EINVAL (no swap signature), EBUSY (in use already), ENOENT."""

from __future__ import annotations

from kata_linux._libc import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata_linux._libc import Path


def swap_on(path: Path, flags: int = 0) -> None:
    """Swap to a device or file that has a swap signature."""
    call("swapon", path, flags, operation="swapon", path=path)


def swap_off(path: Path) -> None:
    """Swap there no more; what lies there moves back to memory first."""
    call("swapoff", path, operation="swapoff", path=path)
