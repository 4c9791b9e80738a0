"""The words of `connect`: commands, arguments, durations, signals. Parsing only (spec of the host side, 1.2,
1.4-1.6).
"""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path
from typing import NamedTuple

BUILTINS = ("echo", "help", "list", "repeat", "sleep", "quit")

_UNITS_S = {
    "ns": 1e-9, "nsec": 1e-9, "us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0,
    "m": 60.0, "min": 60.0, "h": 3600.0, "hr": 3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
_DURATION = re.compile(r"(\d+)\s*([a-z]+)\s*")
_EXTRA_SIGNALS = {"CLD": 17, "STKFLT": 16}
_LAST_SIGNAL = 31


class NotationError(ValueError):
    """A command that cannot be understood."""


class Command(NamedTuple):
    """One command as it was written: its first word, and the rest joined by single spaces."""

    name: str
    argument: str

    @property
    def is_builtin(self) -> bool:
        """Built-ins begin with a lower-case letter."""
        return self.name[:1].islower()


def parse_command(text: str) -> Command:
    """Split a command at white space."""
    words = text.split()
    if not words:
        raise NotationError("empty command")
    return Command(words[0], " ".join(words[1:]))


def parse_duration(text: str) -> float | None:
    """Seconds of `99ns 30us 2ms 5s 7m 1h`; None for nothing or 0, which is no limit."""
    stripped = text.strip()
    if stripped in ("", "0"):
        return None
    total, at = 0.0, 0
    while at < len(stripped):
        match = _DURATION.match(stripped, at)
        if match is None or match[2] not in _UNITS_S:
            raise NotationError(f"duration {text!r}: want a number with a unit, such as 500ms, 5s or 1m 30s")
        total += int(match[1]) * _UNITS_S[match[2]]
        at = match.end()
    return total


def parse_signal(text: str) -> int:
    """`kill`, `SIGKILL` or `9`."""
    if text.isdigit() and int(text) <= 255:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name in _EXTRA_SIGNALS:
        return _EXTRA_SIGNALS[name]
    found = signal.Signals.__members__.get(f"SIG{name}")
    if found is None or found > _LAST_SIGNAL or name == "POLL":
        raise NotationError(f"signal {text!r}: not a signal's name or number")
    return int(found)


def parse_bytes(text: str) -> bytes:
    """`hex:` and hex digits, else the text's own bytes."""
    if not text.startswith("hex:"):
        return text.encode()
    try:
        return bytes.fromhex(text[4:])
    except ValueError as exc:
        raise NotationError(f"{text!r}: {exc}") from None


def parse_repeat(text: str) -> int:
    """How often the next command runs; -1 is for ever, what is no number is 1."""
    try:
        return int(text)
    except ValueError:
        return 1


class Arguments(NamedTuple):
    """A command's argument: a JSON object, or options, or neither."""

    document: dict[str, object] | None
    options: dict[str, str]


def parse_arguments(text: str) -> Arguments:
    """`json://{...}`, `file://PATH`, or `key=value ...` with quotes around values that hold spaces."""
    if text.startswith("json://"):
        return Arguments(_decode(text[len("json://") :], "json://"), {})
    if text.startswith("file://"):
        path = text[len("file://") :]
        try:
            return Arguments(_decode(Path(path).read_text(), path), {})
        except OSError as exc:
            raise NotationError(f"file://{path}: {exc.strerror}") from None
    options: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise NotationError(f"{text!r}: {exc}") from None
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise NotationError(f"argument {word!r}: want key=value, json://{{...}} or file://PATH")
        options[key] = value
    return Arguments(None, options)


def _decode(text: str, where: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        raise NotationError(f"{where}: not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise NotationError(f"{where}: want a JSON object, not {type(value).__name__}")
    return value
