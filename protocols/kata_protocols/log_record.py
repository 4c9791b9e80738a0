"""The words of log records as Kata's log parser reads them: levels and time stamps.

The agent and the host's tools write such records, each with its own fields. Must not know: where they go.
Follows: the record keys of Kata's agent and of its tool, 3.21.
"""

from __future__ import annotations

import time

# From the least severe on.
LEVELS = {
    "trace": "TRCE",
    "debug": "DEBG",
    "info": "INFO",
    "warn": "WARN",
    "error": "ERRO",
    "critical": "CRIT",
}
ORDER = tuple(LEVELS)


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"
