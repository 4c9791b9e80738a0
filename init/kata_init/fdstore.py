"""The descriptor store: descriptors that must outlive the agent, by name, bounded.

Owns: the descriptors put into it, until they are discarded or replaced. Must not know: what they are, or the
channel they came by. Overflow refuses the new entry by name (`StoreFullError`) and closes its descriptors;
what is kept stays.
"""

from __future__ import annotations

import os

LIMIT = 16384


class StoreFullError(Exception):
    """The store holds as many descriptors as it may; the text says which name was refused and why."""


class FdStore:
    """Named lists of descriptors."""

    __slots__ = ("_entries", "_limit", "count")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: dict[str, tuple[int, ...]] = {}
        self.count = 0

    def put(self, name: str, fds: tuple[int, ...]) -> None:
        """Take these over under `name`; what was there is closed first. Raises `StoreFullError`."""
        self.discard(name)
        if self.count + len(fds) > self._limit:
            close_all(fds)
            held = f"{self.count} of {self._limit} descriptors are held"
            raise StoreFullError(f"descriptor store is full, {name!r} with {len(fds)} is refused: {held}")
        self._entries[name] = fds
        self.count += len(fds)

    def get(self, name: str) -> tuple[int, ...] | None:
        """The descriptors under this name, still the store's own."""
        return self._entries.get(name)

    def names(self) -> list[str]:
        """Names in the order they were put."""
        return list(self._entries)

    def discard(self, name: str) -> None:
        """Close what is kept under this name; an unknown name is fine."""
        fds = self._entries.pop(name, ())
        self.count -= len(fds)
        close_all(fds)

    def close(self) -> None:
        """Close everything."""
        for name in self.names():
            self.discard(name)


def close_all(fds: tuple[int, ...] | list[int]) -> None:
    """Close each of them, even when closing one of them fails."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass  # closed is closed: the kernel frees the number whatever it answers
