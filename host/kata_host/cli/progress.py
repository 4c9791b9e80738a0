"""Shows a person what is going on: one line on standard error that is rewritten, only on a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

_CLEAR = "\r\x1b[K"


class Progress:
    """The line; the context removes it, so that it never mixes with what a container prints."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._started = time.monotonic()

    def show(self, text: str) -> None:
        """Say what happens now."""
        if self._shown:
            self._stream.write(f"{_CLEAR}[{time.monotonic() - self._started:5.1f} s] {text} ...")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
