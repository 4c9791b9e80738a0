"""How long the last mounts took: the system call alone, by mount point. The oldest of `LIMIT` is forgotten."""

from __future__ import annotations

LIMIT = 64
_TOOK: dict[str, int] = {}


def note(target: str, took_ns: int) -> None:
    """A mount was made at `target`. From any thread."""
    _TOOK.pop(target, None)
    _TOOK[target] = took_ns
    if len(_TOOK) > LIMIT:
        _TOOK.pop(next(iter(_TOOK), ""), None)


def take(target: str) -> int:
    """Nanoseconds of the last mount at `target`, once; 0 when none is known."""
    return _TOOK.pop(target, 0)
