"""What `smaps_rollup` says of a process's memory (proc_pid_smaps(5)). Pure."""

from __future__ import annotations

from typing import NamedTuple


class Memory(NamedTuple):
    """In MB of 1,000,000 bytes."""

    proportional_mb: float
    anonymous_mb: float

    def plus(self, other: Memory) -> Memory:
        """Both together."""
        return Memory(self.proportional_mb + other.proportional_mb, self.anonymous_mb + other.anonymous_mb)


def parse_rollup(text: str) -> Memory:
    """The figures of one process, or the sum of several whose files were read one after the other.

    Anonymous memory counts proportionally as well: what a fork shares with its parent counts once for both together.
    """
    kilobytes = {"Pss": 0, "Pss_Anon": 0}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in kilobytes:
            kilobytes[name] += int(rest.split()[0])
    if not kilobytes["Pss"]:
        raise ValueError("no Pss in what was read of smaps_rollup")
    return Memory(kilobytes["Pss"] * 1024 / 1e6, kilobytes["Pss_Anon"] * 1024 / 1e6)
