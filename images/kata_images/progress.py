"""What a person sees while an image is built: one line for each step, with its time.

On a terminal the running step's line is rewritten when it ends; elsewhere (a log, CI) each step is one plain line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Writes steps to a stream, which is standard error for the command line tool."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._started = time.monotonic()

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show a step while it runs and how long it took."""
        begun = time.monotonic()
        if self._terminal:
            self._write(f"\r\x1b[K  … {text}")
        try:
            yield
        except BaseException:
            if self._terminal:
                self._write(f"\r\x1b[K  ✗ {text}\n")
            raise
        took = time.monotonic() - begun
        start = "\r\x1b[K  ✓ " if self._terminal else "kata-image: "
        self._write(f"{start}{text}  {took:.1f} s\n")

    def note(self, text: str) -> None:
        """Show a line that belongs to no step."""
        self._write(f"  {text}\n" if self._terminal else f"kata-image: {text}\n")

    def total_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
