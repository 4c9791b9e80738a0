"""What PID 1 tells: lines in the kernel log, kept until there is a /dev/kmsg, and the time line of the boot.

Owns: both records. Must not know: what is told. A log that cannot be written loses lines, never the boot.
"""

from __future__ import annotations

import os
import time

from kata_linux import kmsg

_KEPT_LINES = 64


class Journal:
    """The kernel log under the name `kata-init`, and `steps`: `(step, CLOCK_BOOTTIME in ns)` in order."""

    __slots__ = ("_kept", "_log", "is_open", "steps")

    def __init__(self) -> None:
        self._log: kmsg.KernelLog | None = None
        self.is_open = False
        self._kept: list[tuple[int, str]] = []
        self.steps: list[tuple[str, int]] = []

    def open(self, path: str) -> None:
        """Write to this log from now on, what was kept first; standard error tells when it cannot be opened."""
        try:
            self._log = kmsg.KernelLog("kata-init", path)
        except OSError as error:
            write_stderr(f"kata-init: {error}")
            return
        self.is_open = True
        kept, self._kept = self._kept, []
        for level, text in kept:
            self._write(level, text)

    def info(self, text: str) -> None:
        """Tell what goes as it should."""
        self._write(kmsg.INFO, text)

    def warning(self, text: str) -> None:
        """Tell what went wrong and was lived with."""
        self._write(kmsg.WARNING, text)

    def error(self, text: str) -> None:
        """Tell what somebody has to look at; goes to the console even with `quiet`."""
        self._write(kmsg.ERROR, text)

    def mark(self, step: str) -> int:
        """Note that this step of the boot is done; gives the stamp. A later life of the agent replaces an earlier."""
        stamp = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.steps = [*(entry for entry in self.steps if entry[0] != step), (step, stamp)]
        return stamp

    def recall(self, text: str) -> None:
        """The steps of a stage before this one, `step=ns;step=ns`; what is none is left out."""
        for word in text.split(";"):
            step, _, stamp = word.partition("=")
            if step and stamp.isascii() and stamp.isdigit():
                self.steps.append((step, int(stamp)))

    def _write(self, level: int, text: str) -> None:
        if self._log is None:
            if len(self._kept) < _KEPT_LINES:
                self._kept.append((level, text))
            return
        try:
            self._log.write(level, text)
        except OSError as error:
            write_stderr(f"kata-init: {text} (and the kernel log: {error})")


def write_stderr(text: str) -> None:
    """Write a line to descriptor 2; there may be nobody at its other end."""
    try:
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass  # the last place to tell something is gone; there is no other


def describe_failure(error: BaseException) -> str:
    """Kind, text and frames of an exception, innermost last; `traceback` would load 20 modules at the worst moment."""
    lines = [f"{type(error).__name__}: {error}"]
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"  at {code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    if error.__cause__ is not None:
        lines.append(f"caused by {describe_failure(error.__cause__)}")
    return "\n".join(lines)
