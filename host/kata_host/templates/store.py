"""Owns the folder in which templates lie: what is there, who makes one, who reads one, what is left over.

A template is a manifest, `NAME.json`, which names the folder of its data, `data-...`. The manifest appears in one
rename when everything that it names is on the disk: a template is there whole or not at all, and a new one takes the
place of the old in the same rename. A data folder has a file `lock`: its maker holds it alone, its readers share it
while QEMU opens what is inside (a machine that runs has the files open and needs the folder no more). A data folder
that no manifest names and nobody has locked is left over, however its maker ended; whoever comes next sweeps it.

Must not know: what is in the data, what a template is bound to. Files hold guest memory, and are their owner's alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kata_host.templates.manifest import Entry, Manifest, ManifestError
from kata_host.vm.base import VmError
from kata_host.vm.state import StateError, check_name, find_state_root, lock_root, make_private

VARIABLE = "KATA_CACHE_DIR"
_DATA = "data-"
_SUFFIX = ".json"
_LOCK = "lock"


class TemplateError(VmError):
    """A template cannot be made, used or removed; the text says which, why, and what to do."""


def find_cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this user's things lie that can be made again: as told, else /var/cache for root, else XDG's folder."""
    if named := environ.get(VARIABLE):
        return _check_place(Path(named).absolute(), environ)
    if os.geteuid() == 0:
        return Path("/var/cache/kata-guest")
    home = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '/nonexistent')}/.cache"
    return Path(home) / "kata-guest"


def find_template_root(chosen: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where this user's templates lie: as told, else in the cache."""
    return (
        _check_place(Path(chosen).absolute(), environ) if chosen else find_cache_root(environ) / "templates"
    )


def _check_place(place: Path, environ: Mapping[str, str]) -> Path:
    """Not among the machines that run: what no process owns there is swept."""
    if place.is_relative_to(machines := find_state_root(dict(environ))):
        raise TemplateError(
            f"{place}: lies in {machines}, where only machines that run may be; name another folder"
        )
    return place


def sync_path(path: Path) -> None:
    """Return when the disk has a file or a folder: fsync(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Template:
    """One that is whole, with the folder of its data."""

    manifest: Manifest
    folder: Path


class Draft:
    """A template that is being made; nobody sees it before `publish`."""

    def __init__(self, store: TemplateStore, name: str, folder: Path, lock_fd: int) -> None:
        self.name = name
        self.folder = folder
        self._store = store
        self._lock_fd = lock_fd

    def publish(self, identity: Mapping[str, str], machine: Mapping[str, object]) -> Template:
        """Put it in its place, and away with the one that was there. Raises OSError: the disk is full, or broken."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if name != _LOCK:
                path.chmod(0o700 if path.is_dir() else 0o600)
                self._store.sync(path)
                if path.is_file():
                    files[name] = Entry.of(path)
        self._store.sync(self.folder)
        made = Manifest(self.name, self.folder.name, time.time(), dict(identity), dict(machine), files)
        self._store.put(made, self._lock_fd)
        return Template(made, self.folder)


class TemplateStore:
    """The templates below one folder, which is made with the first of them."""

    def __init__(self, root: Path, sync: Callable[[Path], None] = sync_path) -> None:
        self.root = root
        self.sync = sync

    def list(self) -> list[Manifest | ManifestError]:
        """Every template by name; one whose manifest is no use here is there as the error that tells why."""
        found: list[Manifest | ManifestError] = []
        for path in sorted(self.root.glob(f"[!.]*{_SUFFIX}")):
            with suppress(FileNotFoundError):  # removed while we looked
                try:
                    found.append(Manifest.read(path))
                except ManifestError as error:
                    found.append(error)
        return found

    @contextmanager
    def open(self, name: str) -> Iterator[Template]:
        """A template whose data stay for as long as the context lasts. Raises `TemplateError`."""
        if not self._path(name).is_file():
            raise TemplateError(_describe_absence(name))
        with lock_root(self.root):
            manifest = self._read(name)
            folder = self.root / manifest.data
            fd = _try_lock(folder, fcntl.LOCK_SH)
        if fd is None:
            raise TemplateError(
                f"template {name}: {folder} is gone, or locked by somebody; {describe_remake(name)}"
            )
        try:
            for file, entry in manifest.files.items():
                if (wrong := entry.compare(folder / file)) is not None:
                    raise TemplateError(f"template {name}: {folder / file}: {wrong}; {describe_remake(name)}")
            yield Template(manifest, folder)
        finally:
            os.close(fd)
            self.sweep()

    @contextmanager
    def draft(self, name: str, *, replace: bool = False) -> Iterator[Draft]:
        """A folder for the data of a template to be; gone again unless it is published. Raises `TemplateError`."""
        path = self._path(name)
        try:
            make_private(self.root, f"name another with --template-dir, or set {VARIABLE}")
        except StateError as error:
            raise TemplateError(str(error)) from error
        with lock_root(self.root):
            self._sweep()
            if not replace and path.exists():
                raise TemplateError(f"template {name}: there is one already; {describe_remake(name)}")
            self._refuse_second(name)
            folder = self.root / f"{_DATA}{secrets.token_hex(6)}"
            folder.mkdir(mode=0o700)
            try:
                fd = _make_lock(folder, f"{name} {os.getpid()}\n")
            except OSError:
                shutil.rmtree(folder)
                raise
        try:
            yield Draft(self, name, folder, fd)
        finally:
            os.close(fd)
            self.sweep()

    def put(self, manifest: Manifest, lock_fd: int) -> None:
        """Let a manifest be seen, in the place of the one that has its name, and its data be read."""
        path = self._path(manifest.name)
        draft = self.root / f".{path.name}"
        with lock_root(self.root):
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with _naming(draft), open(fd, "w") as file:
                file.write(json.dumps(manifest.dump(), indent=1) + "\n")
            self.sync(draft)
            fcntl.flock(lock_fd, fcntl.LOCK_SH)
            draft.replace(path)
            self.sync(self.root)

    def remove(self, name: str) -> None:
        """Take one away; machines that were made from it go on. Raises `TemplateError`."""
        if not self._path(name).is_file():
            raise TemplateError(_describe_absence(name))
        with lock_root(self.root):
            self._path(name).unlink(missing_ok=True)
            self._sweep()

    def sweep(self) -> None:
        """Remove what nobody has, and nobody will."""
        if self.root.is_dir():
            with lock_root(self.root):
                self._sweep()

    def _sweep(self) -> None:
        for draft in self.root.glob(f".*{_SUFFIX}"):
            draft.unlink()
        named = {each.data for each in self.list()}
        if None in named:
            return  # whose data are another's, and whose are left over, cannot be told
        for folder in self.root.glob(f"{_DATA}*"):
            if folder.name not in named and not _is_locked(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _refuse_second(self, name: str) -> None:
        for folder in self.root.glob(f"{_DATA}*"):
            if _is_locked(folder, by_maker=True):
                maker, pid = (folder / _LOCK).read_text().split()
                if maker == name:
                    raise TemplateError(
                        f"template {name}: process {pid} is making it; wait for it, or end it"
                    )

    def _read(self, name: str) -> Manifest:
        try:
            return Manifest.read(self._path(name))
        except FileNotFoundError:
            raise TemplateError(_describe_absence(name)) from None
        except ManifestError as error:
            raise TemplateError(f"{error}; {describe_remake(name)}") from error

    def _path(self, name: str) -> Path:
        try:
            check_name(name, "a template's name")
        except StateError as error:
            raise TemplateError(str(error)) from error
        return self.root / f"{name}{_SUFFIX}"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Of a full disk write(2) tells without saying where."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _make_lock(folder: Path, text: str) -> int:
    """A descriptor that holds a new folder for its maker alone. Raises OSError."""
    path = folder / _LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _naming(path):
            os.write(fd, text.encode())
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(folder: Path, how: int) -> int | None:
    """A descriptor with the lock of a folder; None: somebody has it in a way that forbids this, or there is none."""
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _is_locked(folder: Path, *, by_maker: bool = False) -> bool:
    """Whether a live process has it. A folder without a lock has lost its maker in the middle."""
    if not (folder / _LOCK).exists():
        return False
    fd = _try_lock(folder, fcntl.LOCK_SH if by_maker else fcntl.LOCK_EX)
    if fd is not None:
        os.close(fd)
    return fd is None


def _describe_absence(name: str) -> str:
    return f"template {name}: there is none; make it with: kata-agent-ctl vm template create {name}"


def describe_remake(name: str) -> str:
    """What to do about a template that is no use."""
    return f"make it anew with: kata-agent-ctl vm template create --force {name}"
