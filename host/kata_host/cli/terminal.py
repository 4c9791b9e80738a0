"""This process's terminal: raw mode while a container has it, its size, and news of its size."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Keys go through unprocessed; the old settings come back at the end. Nothing happens to what is no terminal."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def read_size(fd: int) -> tuple[int, int] | None:
    """Rows and columns; None for what is no terminal."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return None
    return size.lines, size.columns


@contextmanager
def on_resize(changed: Callable[[], None]) -> Iterator[None]:
    """Call `changed` from the event loop whenever the window changes its size."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
