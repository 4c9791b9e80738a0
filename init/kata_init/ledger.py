"""The exit ledger: every exit in the order of reaping, kept until it is forgotten, bounded.

Owns: the record and its bound. Overflow drops the oldest entry and counts it in `dropped`. Readers keep a
cursor (a sequence number) and ask for what came since, so a reader that stalls loses nothing that is still
here. Must not know: channels, processes, the kernel.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata_init.exits import Exit

LIMIT = 8192


class Ledger:
    """Exits by `(pid, start_time)` and by sequence number."""

    __slots__ = ("_by_process", "_by_sequence", "_limit", "dropped", "next_sequence")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._by_sequence: dict[int, Exit] = {}
        self._by_process: dict[tuple[int, int], int] = {}
        self.next_sequence = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._by_sequence)

    def add(self, entry: Exit) -> None:
        """Record an exit. The second exit of one process (same pid and start time) replaces the first."""
        self.forget(entry.pid, entry.start_time)
        if len(self._by_sequence) >= self._limit:
            oldest = self._by_sequence[next(iter(self._by_sequence))]
            self.forget(oldest.pid, oldest.start_time)
            self.dropped += 1
        self._by_sequence[self.next_sequence] = entry
        self._by_process[entry.pid, entry.start_time] = self.next_sequence
        self.next_sequence += 1

    def find(self, pid: int, start_time: int) -> Exit | None:
        """The exit of this process, if it is here."""
        sequence = self._by_process.get((pid, start_time))
        return None if sequence is None else self._by_sequence[sequence]

    def forget(self, pid: int, start_time: int) -> bool:
        """Drop an exit that nobody will ask for again; False when it was not here."""
        sequence = self._by_process.pop((pid, start_time), None)
        if sequence is None:
            return False
        del self._by_sequence[sequence]
        return True

    def since(self, cursor: int) -> list[tuple[int, Exit]]:
        """Entries with a sequence number of `cursor` or more, oldest first. Costs what it returns."""
        newer = []
        for sequence in reversed(self._by_sequence):  # insertion order is sequence order
            if sequence < cursor:
                break
            newer.append((sequence, self._by_sequence[sequence]))
        newer.reverse()
        return newer
