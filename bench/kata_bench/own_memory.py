"""What a machine has of its guest's memory for itself, and whose pages they are. Pure, but for `read_own_frames`.

A copy of a saved machine maps the saved memory privately: a page that it has written to is its own. The host's pagemap
names those pages, the guest (`in_guest`) says what each is. Guests have less than 2 GiB, so that a frame's number is
its place in the memory.
"""

from __future__ import annotations

import base64
import os
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PAGE_BYTES = 4096
_PRESENT, _FILE, _SWAPPED = 1 << 63, 1 << 61, 1 << 62
# By `in_guest.list_kinds`; the first that fits.
_KINDS = (
    (1, "free"),
    (4, "page tables"),
    (2, "kernel objects"),
    (8, "processes"),
    (16, "files"),
    (32, "files"),
)


class GuestPages(NamedTuple):
    """What the guest told: frames of PID 1 and of the agent, and the kind of every frame."""

    pid1: frozenset[int]
    agent: frozenset[int]
    kinds: bytes


def parse_guest_pages(text: str) -> GuestPages:
    """What `in_guest` printed. KeyError: a part is missing."""
    parts = {}
    for line in text.splitlines():
        name, _, data = line.partition(" ")
        parts[name] = zlib.decompress(base64.b64decode(data))
    pid1, agent = (
        frozenset(frame for (frame,) in struct.iter_unpack("=I", parts[name])) for name in ("pid1", "agent")
    )
    return GuestPages(pid1, agent, parts["kinds"])


def count_dirty(own: frozenset[int], pages: GuestPages) -> dict[str, float]:
    """MB of the machine's own pages by who has them; a page of both PID 1 and the agent is PID 1's."""
    counts: Counter[str] = Counter()
    for frame in own:
        if frame in pages.pid1:
            counts["PID 1"] += 1
        elif frame in pages.agent:
            counts["agent"] += 1
        else:
            kind = pages.kinds[frame] if frame < len(pages.kinds) else 0
            counts[next((name for bit, name in _KINDS if kind & bit), "kernel")] += 1
    return {name: count * PAGE_BYTES / 1e6 for name, count in counts.most_common()}


def parse_private(smaps: str, endings: tuple[str, ...]) -> float:
    """MB of the mappings of files with these endings that are this process's alone."""
    total, ours = 0, False
    for line in smaps.splitlines():
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            ours = line.endswith(endings)
        elif ours and key in ("Private_Dirty:", "Private_Hugetlb:"):
            total += int(rest.split()[0])
    return total * 1024 / 1e6


def read_own_frames(pid: int, memory: Path) -> frozenset[int]:
    """Frames that the machine of this QEMU has for itself. LookupError: it does not map `memory`."""
    own: set[int] = set()
    found = False
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if len(words) < 6 or words[5] != str(memory):
            continue
        found = True
        start, end = (int(word, 16) for word in words[0].split("-"))
        first = int(words[2], 16) // PAGE_BYTES
        with open(f"/proc/{pid}/pagemap", "rb", 0) as pages:
            data = os.pread(pages.fileno(), (end - start) // PAGE_BYTES * 8, start // PAGE_BYTES * 8)
        for number, (entry,) in enumerate(struct.iter_unpack("=Q", data), first):
            if entry & (_PRESENT | _SWAPPED) and not entry & _FILE:
                own.add(number)
    if not found:
        raise LookupError(f"process {pid} does not map {memory}")
    return frozenset(own)
