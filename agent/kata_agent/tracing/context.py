"""The caller's trace context from a call's metadata: W3C Trace Context, `traceparent` and `tracestate`. Pure.

What does not parse is as if it were not there, as the recommendation has it: the span begins a trace of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLED = 1
# The recommendation asks for at least this much of a tracestate, and nobody else bounds it.
STATE_LIMIT = 512
STATE_MEMBERS = 32
_HEX = frozenset("0123456789abcdef")


class Context(Record):
    """Where a call comes from."""

    trace_id: bytes
    span_id: bytes
    flags: int
    state: tuple[tuple[str, str], ...] = ()


def read_context(metadata: Sequence[tuple[str, str]]) -> Context | None:
    """The caller's context; None without one that is valid. A repeated key's values are joined, as in Kata's agent."""
    parent = _join(metadata, "traceparent")
    fields = parent.split("-") if len(parent) <= STATE_LIMIT else []
    if len(fields) < 4 or [len(field) for field in fields[:4]] != [2, 32, 16, 2]:
        return None
    version, trace_id, span_id, flags = fields[:4]
    if not _HEX.issuperset("".join(fields[:4])) or version == "ff" or (version == "00" and len(fields) > 4):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    state = parse_state(_join(metadata, "tracestate"))
    return Context(bytes.fromhex(trace_id), bytes.fromhex(span_id), int(flags, 16) & SAMPLED, state)


def parse_state(text: str) -> tuple[tuple[str, str], ...]:
    """The members of a tracestate, all or none of them."""
    members = [member.strip().partition("=") for member in text.split(",") if member.strip()]
    if len(text) > STATE_LIMIT or len(members) > STATE_MEMBERS:
        return ()
    if not all(key and separator and value for key, separator, value in members):
        return ()
    return tuple((key, value) for key, _, value in members)


def _join(metadata: Sequence[tuple[str, str]], name: str) -> str:
    return ",".join(value for key, value in metadata if key.lower() == name)
