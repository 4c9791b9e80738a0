"""The folders of CDI files: what is defined, where, and what is wrong with the rest.

Owns reading, what is kept of files that have not changed, and which of two definitions counts. Must not know: who asks.
Follows: CDI 1.1: files `*.json` and `*.yaml` directly in each folder; a later folder wins over an earlier one, two
definitions of one device in one folder cancel each other. A bad file costs its own devices only.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from kata_agent.devices.cdi import document
from kata_agent.devices.cdi.definition import Definition, Malformed, parse_definition
from kata_agent.devices.cdi.name import Name
from kata_agent.errors import errno_text
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDERS = ("/etc/cdi", "/var/run/cdi")
"""Least important first."""

FILE_LIMIT_BYTES = 1 << 20
FILES_LIMIT = 256
_ENDINGS = (".json", ".yaml")


class Origin(Record):
    """Where a device is defined."""

    path: str
    definition: Definition


class Catalogue(Record):
    """All that the folders say at one moment."""

    devices: Mapping[Name, Origin]
    problems: tuple[str, ...]
    """What is wrong, with file, line and field: bad files, and devices that are defined twice."""
    empty: tuple[str, ...]
    """Folders that are not there, or have no CDI file."""


_Identity = tuple[int, int, int, int, int]
_Result = Definition | str


class Folders:
    """Reads the folders again and again; files that have not changed are parsed once."""

    def __init__(self, paths: Sequence[str] = FOLDERS) -> None:
        self.paths = tuple(paths)
        self._parsed: dict[str, tuple[_Identity, _Result]] = {}

    def scan(self) -> Catalogue:
        """Blocks: reads and parses what is new."""
        results: list[list[tuple[str, _Result]]] = []
        problems: list[str] = []
        empty = []
        seen: dict[str, tuple[_Identity, _Result]] = {}
        for folder in self.paths:
            try:
                names = _list(folder)
            except OSError as error:
                problems.append(f"{folder}: {errno_text(error.errno or 0)}")
                continue
            if not names:
                empty.append(folder)
            if len(names) > FILES_LIMIT:
                problems.append(
                    f"{folder}: has more than {FILES_LIMIT} files, those after {names[FILES_LIMIT - 1]} are left out"
                )
            found = []
            for name in names[:FILES_LIMIT]:
                path = f"{folder}/{name}"
                result = self._read(path, seen)
                if result is not None:
                    found.append((path, result))
            results.append(found)
        self._parsed = seen
        devices, wrong = merge(results)
        return Catalogue(devices, (*problems, *wrong), tuple(empty))

    def _read(self, path: str, seen: dict[str, tuple[_Identity, _Result]]) -> _Result | None:
        """The file's definition, or what is wrong with it; None when it went away meanwhile."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{path}: {errno_text(error.errno or 0)}"
        try:
            about = os.fstat(fd)
            identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            known = self._parsed.get(path)
            if known is None or known[0] != identity:
                known = (identity, _read_file(path, fd, about))
            seen[path] = known
            return known[1]
        finally:
            os.close(fd)


def merge(folders: Sequence[Sequence[tuple[str, _Result]]]) -> tuple[dict[Name, Origin], list[str]]:
    """Which definition of each device counts, and what is wrong. Pure."""
    devices: dict[Name, Origin] = {}
    problems: list[str] = []
    for files in folders:
        here: dict[Name, Origin] = {}
        twice: dict[Name, str] = {}
        for path, result in files:
            if isinstance(result, str):
                problems.append(result)
                continue
            for device in result.devices:
                name = Name(result.kind, device)
                if name in here:
                    twice[name] = f"{name} is defined by {here[name].path} and by {path}: neither counts"
                here.setdefault(name, Origin(path, result))
        devices.update(here)
        for name, problem in twice.items():
            del devices[name]
            problems.append(problem)
    return devices, problems


def parse_file(path: str, data: bytes) -> _Result:
    """A file's definition, or what is wrong with it: `FILE:LINE: FIELD: TEXT`. Pure."""
    try:
        return parse_definition(document.parse(data, yaml=path.endswith(".yaml")))
    except document.Unreadable as error:
        return _complain(path, error.line, str(error))
    except Malformed as error:
        return _complain(path, document.locate(data, error.path), str(error))


def _complain(path: str, line: int, text: str) -> str:
    return f"{path}:{line}: {text}" if line else f"{path}: {text}"


def _list(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(_ENDINGS))
    except FileNotFoundError:
        return []


def _read_file(path: str, fd: int, about: os.stat_result) -> _Result:
    if not stat.S_ISREG(about.st_mode):
        return f"{path}: is not a regular file"
    if about.st_size > FILE_LIMIT_BYTES:
        return f"{path}: has {about.st_size} bytes, more than {FILE_LIMIT_BYTES}"
    try:
        with open(fd, "rb", closefd=False) as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        return f"{path}: {errno_text(error.errno or errno.EIO)}"
    return parse_file(path, data)
