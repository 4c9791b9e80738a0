"""What is written down of a template: its name, where its data lie, what it is bound to, which files it has. Pure but
for `read`.

`format` and `data` keep their place and meaning in every format that there will be: who cannot use a template can
still list it, remove it and tell its data from what is left over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


class ManifestError(Exception):
    """A manifest that is no use here; `name` is the template's, `data` its folder where that much can be read."""

    def __init__(self, path: Path, why: str, data: str | None = None) -> None:
        super().__init__(f"template {path.stem}: {why}")
        self.name = path.stem
        self.why = why
        self.data = data


@dataclass(frozen=True)
class Entry:
    """A file as it was when the template was made: bytes, bytes on the disk, time of the last change."""

    size: int
    allocated: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Entry:
        """What the file is now."""
        found = path.stat()
        return cls(found.st_size, found.st_blocks * 512, found.st_mtime_ns)

    def compare(self, path: Path) -> str | None:
        """Why the file is not the one that was written, None if it is."""
        try:
            now = Entry.of(path)
        except FileNotFoundError:
            return "it is gone"
        if now.size != self.size:
            return f"it has {now.size} bytes, and had {self.size}"
        return "it was written to since" if now.mtime_ns != self.mtime_ns else None


@dataclass(frozen=True)
class Manifest:
    """A template. `made` is in seconds since 1970; `identity` is `identity.Identity`'s, `machine` the maker's own."""

    name: str
    data: str
    made: float
    identity: dict[str, str]
    machine: dict[str, Any]
    files: dict[str, Entry]

    @property
    def allocated(self) -> int:
        """Bytes on the disk."""
        return sum(entry.allocated for entry in self.files.values())

    def dump(self) -> dict[str, object]:
        """As it is written."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """What lies there. Raises ManifestError, FileNotFoundError."""
        try:
            found: Mapping[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ManifestError(path, f"{path} cannot be read: {error}") from error
        data = found.get("data") if isinstance(found, dict) else None
        if not isinstance(data, str) or "/" in data:
            raise ManifestError(path, f"{path} names no data")
        if found.get("format") != FORMAT:
            why = f"it has format {found.get('format')}, this program knows {FORMAT}"
            raise ManifestError(path, why, data)
        try:
            files = {name: Entry(**entry) for name, entry in found["files"].items()}
            words = {str(key): str(value) for key, value in found["identity"].items()}
            return cls(path.stem, data, float(found["made"]), words, dict(found["machine"]), files)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(
                path, f"{path} cannot be read: {type(error).__name__}: {error}", data
            ) from error
