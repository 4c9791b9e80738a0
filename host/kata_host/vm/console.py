"""Reads a guest's console file: what went wrong in it, and the lines worth showing.

Knows the kernel's own words for trouble (Documentation/admin-guide/bug-hunting.rst) and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

from kata_host.vm.process import read_tail

_SHOWN_LINES = 25
_AFTER_PANIC = 4
_TAIL_LINES = 400

_PANIC = "Kernel panic - not syncing"
_TROUBLE = re.compile(
    r"Kernel panic|\bBUG: |\bOops: |WARNING: CPU: \d|general protection fault|Call Trace:"
    r"|rcu: INFO: .*stall|Out of memory:"
)
# Firmware clears the screen before the kernel speaks.
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc")


def find_panic(console: Path) -> str | None:
    """The line with which the kernel gave up."""
    for line in read_tail(console, _TAIL_LINES).splitlines():
        if _PANIC in line:
            return line[line.index(_PANIC) :].strip()
    return None


def find_trouble(text: str) -> list[str]:
    """Every line of a console that a healthy kernel does not print."""
    return [line.strip() for line in text.splitlines() if _TROUBLE.search(line)]


def read_console(console: Path, lines: int = _SHOWN_LINES) -> str:
    """The lines that explain most: those before a panic, else the last ones."""
    kept = _ESCAPE.sub("", read_tail(console, _TAIL_LINES)).splitlines()
    at = next((number for number, line in enumerate(kept) if _PANIC in line), None)
    if at is not None:
        kept = kept[: at + _AFTER_PANIC]
    return "\n".join(kept[-lines:])
