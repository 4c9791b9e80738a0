"""How long the caller of the method that is being answered will wait.

Owns: the value, for whatever the call awaits, however deep. The server answers in time anyway; who waits for something
slow bounds its wait by this, to say what it was that did not come.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

# The event loop's time, or None for no limit.
DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)

# What it takes to undo what was begun, and to send the answer, before the caller hangs up.
_MARGIN = 0.2
_MARGIN_LIMIT_S = 5.0


def bound(limit_s: float, setting: str) -> tuple[float, str]:
    """Seconds to wait at most, and whose limit that is: the setting's, or the caller's when that is nearer."""
    deadline = DEADLINE.get()
    if deadline is None:
        return limit_s, setting
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    left -= min(left * _MARGIN, _MARGIN_LIMIT_S)
    return (left, "the caller's deadline") if left < limit_s else (limit_s, setting)
