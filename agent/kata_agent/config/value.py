"""From a setting's text to its value: pure parsers, each of which raises ValueError with what is wrong.

Follows: Kata's agent 3.21, section "Kernel command line": numbers as Rust's parsers take them, two kinds of switches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_LEVELS = {
    "fatal": "critical",
    "panic": "critical",
    "critical": "critical",
    "error": "error",
    "warn": "warn",
    "warning": "warn",
    "info": "info",
    "debug": "debug",
    "trace": "trace",
}
UNIX = "unix://"
_I32 = (1 << 31) - 1
_I64 = (1 << 63) - 1
_U64 = (1 << 64) - 1


class AllowList(Record):
    """The endpoints that may be called, by method or message name. `reason` says why it is not what somebody wrote."""

    names: frozenset[str]
    reason: str = ""


def parse_text(text: str) -> str:
    """Any text."""
    return text


def parse_some_text(text: str) -> str:
    """Any text but none: what it means is decided where it is used."""
    if not text:
        raise ValueError("empty")
    return text


def parse_level(text: str) -> str:
    """A level's name in lower case."""
    if text not in LOG_LEVELS:
        raise ValueError(f"not one of {', '.join(LOG_LEVELS)}")
    return LOG_LEVELS[text]


def parse_pressure(text: str) -> str:
    """What is to be told of pressure, if it can be understood."""
    if text != "off":
        from kata_agent.cgroups import pressure  # only who asks for it pays for it

        pressure.parse_limits(text)
    return text


def parse_number(text: str, low: int, high: int) -> int:
    """A decimal number; a leading `+` is allowed."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()) or (text[0] == "-" and low >= 0):
        raise ValueError("not a number" if low < 0 else "not a number of zero or more")
    if not low <= int(text) <= high:
        raise ValueError(f"out of range, {low} to {high} is")
    return int(text)


def parse_u8(text: str) -> int:
    """0 to 255."""
    return parse_number(text, 0, 255)


def parse_u64(text: str) -> int:
    """0 to 2^64-1."""
    return parse_number(text, 0, _U64)


def parse_i64(text: str) -> int:
    """Signed, 64 bits."""
    return parse_number(text, -_I64 - 1, _I64)


def parse_size(text: str) -> int:
    """Bytes; at most what 31 bits hold."""
    return parse_number(text, 0, _I32)


def parse_seconds(text: str) -> float:
    """Seconds: a whole number."""
    return parse_u64(text)


def parse_listener(text: str) -> str:
    """A vsock port on which any context id may be reached, or a `unix://` address; nothing for 0 and below."""
    if text.startswith(UNIX) and len(text) > len(UNIX):
        return text
    port = parse_number(text, -_I32 - 1, _I32)
    return f"vsock://-1:{port}" if port > 0 else ""


def parse_loose_switch(text: str) -> bool:
    """`true`, or a number that is not zero; whatever else is off, as in Kata's agent, and never wrong."""
    if text == "true":
        return True
    try:
        return parse_u64(text) != 0
    except ValueError:
        return False


def parse_switch(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def parse_url(text: str) -> str:
    """A URL; a `/` follows a host that has no path."""
    scheme, separator, rest = text.partition("://")
    host = rest.partition("/")[0]
    if not separator or not scheme.isascii() or not scheme.replace("+", "a").isalnum() or not host:
        raise ValueError("no URL")
    return text if "/" in rest else f"{text}/"


def parse_only_all(text: str) -> str:
    """`all`; other values are Kata's agent's to ignore, but none is wrong."""
    return "all" if parse_some_text(text) == "all" else ""


def parse_endpoints(names: list[str]) -> AllowList:
    """Names of methods (`CreateContainer`, `kata.agent.v1.Sandbox/Why`) or of their messages."""
    return AllowList(frozenset(names))


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser for one of these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"not one of {', '.join(choices)}")
        return text

    return parse
