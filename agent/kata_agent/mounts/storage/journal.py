"""What a restarted agent must know of storages: how each is undone, one small file for each.

Owns: the files. Must not know: who uses what (containers' own records tell). A file is written before the mount, with
what undoes it if it came about, and again after it; so an agent that is killed anywhere leaves no mount that
nobody undoes. Huge pages whose mount was cut short in between are the one thing lost, until the guest ends.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence

from kata_agent.mounts.undo import Undo, Unmount, decode, encode
from kata_linux.record import Record


class Entry(Record):
    """One storage; `kept` for one that stays until the pod ends."""

    name: str
    steps: tuple[Undo, ...]
    kept: bool = False


class Journal:
    """Files in a folder, by number. Without a folder nothing is written: no agent will come after this one."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._taken = False
        self._lock = threading.Lock()

    def intend(self, name: str) -> None:
        """Something may be mounted at `name` from now on."""
        self.write(Entry(name, (Unmount(name, perhaps=True),)))

    def write(self, entry: Entry) -> None:
        """Write down, or again. From any thread."""
        if self._folder is None:
            return
        with self._lock:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            if entry.name not in self._numbers:
                self._last += 1
                self._numbers[entry.name] = self._last
            path = self._path(entry.name)
        with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps({"name": entry.name, "kept": entry.kept, "steps": encode(entry.steps)}))
        os.rename(f"{path}.new", path)

    def remove(self, name: str) -> None:
        """It has been undone. From any thread."""
        with self._lock:
            if name in self._numbers:
                os.unlink(self._path(name))
                del self._numbers[name]

    def take(self) -> Sequence[Entry]:
        """What the agent before this one wrote, oldest first; the first time only."""
        if self._taken or self._folder is None or not os.path.isdir(self._folder):
            return ()
        self._taken = True
        entries = []
        for number in sorted(int(name) for name in os.listdir(self._folder) if name.isdigit()):
            with open(f"{self._folder}/{number}", encoding="utf-8") as file:
                fields = json.load(file)
            entries.append(Entry(fields["name"], decode(fields["steps"]), fields["kept"]))
            self._numbers[fields["name"]] = number
            self._last = number
        return entries

    def _path(self, name: str) -> str:
        return f"{self._folder}/{self._numbers[name]}"
