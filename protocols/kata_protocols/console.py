"""What travels to a guest's debug console: bytes as they are typed; from hosts that say so, window sizes too.

Kata's hosts send raw bytes and nothing else. A host that knows more begins with a NUL, which nobody types first; from
then on a NUL escapes: `NUL NUL` is one that was typed, `NUL w ROWS COLUMNS LF` a window's size. Output is raw always.
Pure; decision 0113.
"""

from __future__ import annotations

from typing import NamedTuple

_NUL = b"\0"
_LINE_LIMIT = 32


class Size(NamedTuple):
    """A window's."""

    rows: int
    columns: int


def encode_size(rows: int, columns: int) -> bytes:
    """The size as it travels; a host's first bytes, if it wants to send any later."""
    return b"\0w%d %d\n" % (rows, columns)


def escape(data: bytes) -> bytes:
    """Typed bytes of a host that has begun with a size."""
    return data.replace(_NUL, b"\0\0")


class ConsoleInput:
    """The guest's side: takes bytes in any pieces."""

    def __init__(self) -> None:
        self._escapes: bool | None = None
        self._left = b""

    def feed(self, data: bytes) -> list[bytes | Size]:
        """What these bytes complete, in order. A control line that is none is left out."""
        if self._escapes is None and data:
            self._escapes = data.startswith(_NUL)
        if not self._escapes:
            return [data] if data else []
        found: list[bytes | Size] = []
        rest = self._left + data
        while rest:
            typed, nul, after = rest.partition(_NUL)
            if typed:
                found.append(typed)
            if not nul:
                rest = b""
            elif after.startswith(_NUL):
                found.append(_NUL)
                rest = after[1:]
            else:
                line, end, behind = after.partition(b"\n")
                if not end and len(line) <= _LINE_LIMIT:
                    self._left = _NUL + line
                    return found
                size = _parse_size(line)
                if size is not None:
                    found.append(size)
                rest = behind if end else after[1:]
        self._left = b""
        return found


def _parse_size(line: bytes) -> Size | None:
    numbers = line.removeprefix(b"w").split(b" ")
    if not line.startswith(b"w") or len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return None
    return Size(min(int(numbers[0]), 0xFFFF), min(int(numbers[1]), 0xFFFF))
