"""Run in the guest, by its own Python, with its /proc at /guest-proc: which page frames PID 1 and the agent hold, and
what every frame of the machine is.

Prints `NAME BASE64` lines, compressed: `pid1` and `agent` (32-bit numbers of frames) and `kinds` (a byte a frame).
Follows the kernel's admin-guide/mm/pagemap.rst. Must not import anything of ours: the guest has none of it.
"""

import base64
import os
import struct
import sys
import zlib

_PROC = "/guest-proc"
_PAGE_BYTES = 4096
_PRESENT, _FILE = 1 << 63, 1 << 61
_FRAME = (1 << 55) - 1
_PIECE = 1 << 15


def find_processes() -> list[str]:
    """PID 1 and its child that is the agent."""
    with open(f"{_PROC}/1/task/1/children", encoding="ascii") as file:
        children = file.read().split()
    found = ["1"]
    for pid in children:
        with open(f"{_PROC}/{pid}/comm", encoding="ascii") as file:
            if file.read().strip() == "kata-agent":
                found.append(pid)
    return found


def list_frames(pid: str) -> set[int]:
    """The frames of a process's anonymous pages."""
    frames = set()
    with (
        open(f"{_PROC}/{pid}/maps", encoding="utf-8") as maps,
        open(f"{_PROC}/{pid}/pagemap", "rb", 0) as pages,
    ):
        for line in maps:
            start, end = (int(word, 16) for word in line.split(maxsplit=1)[0].split("-"))
            if start >= 1 << 47:
                continue  # the kernel's own page
            data = os.pread(pages.fileno(), (end - start) // _PAGE_BYTES * 8, start // _PAGE_BYTES * 8)
            for (entry,) in struct.iter_unpack("=Q", data):
                if entry & _PRESENT and not entry & _FILE:
                    frames.add(entry & _FRAME)
    return frames


def list_kinds() -> bytes:
    """One byte a frame: bits 0 to 7 of our own (see `kata_bench.own_memory`)."""
    bits = ((10, 1), (7, 2), (26, 4), (12, 8), (5, 16), (11, 32), (22, 64))
    known: dict[int, int] = {}
    kinds = bytearray()
    with open(f"{_PROC}/kpageflags", "rb", 0) as flags:
        while data := flags.read(8 * _PIECE):
            for (entry,) in struct.iter_unpack("=Q", data):
                kind = known.get(entry)
                if kind is None:
                    kind = known[entry] = sum(ours for bit, ours in bits if entry >> bit & 1)
                kinds.append(kind)
    return bytes(kinds)


def show(name: str, data: bytes) -> None:
    """One line."""
    sys.stdout.write(f"{name} {base64.b64encode(zlib.compress(data)).decode()}\n")


if __name__ == "__main__":
    for process in find_processes():
        held = sorted(list_frames(process))
        show("pid1" if process == "1" else "agent", struct.pack(f"={len(held)}I", *held))
    show("kinds", list_kinds())
