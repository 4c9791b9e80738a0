"""The builder's folder: results kept under the key of what they were made from, and one builder at a time.

A result is a folder that appears by one rename, so that an interrupted build leaves either all of it or nothing.
Temporary folders live beside the results; whoever holds the lock owns them all and removes what a killed builder left.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from kata_images.errors import ImageError

LOCK_DEADLINE_S = 1800.0


def key_of(*parts: object) -> str:
    """Return a short name for these inputs (anything JSON can write)."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


class Cache:
    """Results by kind and key below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._temporary = self.folder / "tmp"

    def result(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of a result, made by `make(folder)` if it is not there yet."""
        final = self.folder / kind / key
        if not final.exists():
            with self.temporary(kind) as folder:
                made = folder / "result"
                made.mkdir()
                make(made)
                final.parent.mkdir(parents=True, exist_ok=True)
                made.rename(final)
        os.utime(final)
        return final

    def prune(self, kinds: Iterable[str], *, keep: int = 24) -> None:
        """Remove all but the most recently used results of these kinds."""
        for kind in kinds:
            results = sorted(
                (self.folder / kind).glob("*"), key=lambda path: path.stat().st_mtime, reverse=True
            )
            for old in results[keep:]:
                shutil.rmtree(old)

    def has(self, kind: str, key: str) -> bool:
        """Tell whether a result is there."""
        return (self.folder / kind / key).exists()

    @contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        """Give a folder that is gone afterwards, whatever happens."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self._temporary) as folder:
            yield Path(folder)

    @contextmanager
    def locked(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock; `waiting` is told once who holds it, if somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, waiting)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            shutil.rmtree(self._temporary, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, waiting: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        waiting(holder)
    else:
        return
    # flock has no deadline of its own: a thread waits in it, the caller waits for the thread.
    got = threading.Thread(target=fcntl.flock, args=(descriptor, fcntl.LOCK_EX), daemon=True)
    got.start()
    got.join(LOCK_DEADLINE_S)
    if got.is_alive():
        raise ImageError(f"process {holder} builds for more than {LOCK_DEADLINE_S:.0f} s; end it or wait")
