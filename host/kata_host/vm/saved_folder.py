"""A saved machine on disk: three files in a folder of their owner's, there whole or not at all.

| file | what it holds |
|---|---|
| `memory` | the guest's memory from address 0 on, with holes where it is zero |
| `state` | the rest of the machine, as QEMU's migration writes it; or all of it, and then `memory` is one hole |
| `machine.json` | what a restore must know, and what it must find the same |

Owns: the format, and how it comes to be: unnamed files first, so that a writer that is killed leaves nothing.
Must not know: how a machine is saved or started. Follows open(2) (O_TMPFILE), linkat(2) and rename(2).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from kata_host.vm.base import VmConfig, VmError
from kata_host.vm.config_json import dump_config, load_config
from kata_host.vm.versions import Versions

FORMAT = 1
MACHINE = "machine.json"
_FILES = ("memory", "state")


@dataclass(frozen=True)
class Saved:
    """A saved machine."""

    folder: Path
    config: VmConfig
    versions: Versions
    inside: bool = False
    """Whether the memory is inside the state, as that of a copy is, which nobody but its QEMU can read."""

    @property
    def memory(self) -> Path:
        """The guest's memory. Whoever maps it must do so privately."""
        return self.folder / "memory"

    @property
    def state(self) -> Path:
        """QEMU's stream."""
        return self.folder / "state"


@dataclass(frozen=True)
class Draft:
    """Descriptors of the two files while they are written; nobody can see them."""

    memory: int
    state: int


@contextmanager
def open_draft(folder: Path) -> Iterator[Draft]:
    """Unnamed files for a saved machine that is to be `folder`, which must not exist. Raises `VmError`, OSError."""
    check_free(folder)
    with _open_unnamed(folder.parent) as memory, _open_unnamed(folder.parent) as state:
        yield Draft(memory.fileno(), state.fileno())


def check_free(folder: Path) -> None:
    """VmError when there is something already, or no place for it."""
    if not folder.parent.is_dir():
        raise VmError(f"{folder}: {folder.parent} is no folder; make it first")
    if os.path.lexists(folder):
        raise VmError(f"{folder}: is there already; remove it, or name another folder")


def publish(draft: Draft, saved: Saved) -> None:
    """Make the saved machine appear, whole, private and on the disk. Raises OSError; then there is nothing."""
    folder, descriptors = saved.folder, (draft.memory, draft.state)
    for fd in descriptors:
        os.fsync(fd)
    hidden = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    hidden.mkdir(mode=0o700)
    try:
        for name, fd in zip(_FILES, descriptors, strict=True):
            _give_name(fd, hidden, name)
        _write_machine(hidden / MACHINE, saved)
        _sync_folder(hidden)
        hidden.rename(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    _sync_folder(folder.parent)


def read_saved(folder: Path) -> Saved:
    """The saved machine in a folder. Raises `VmError`."""
    try:
        found = json.loads((folder / MACHINE).read_text())
        if found["format"] != FORMAT:
            raise VmError(
                f"{folder}: a saved machine of format {found['format']}; this program reads {FORMAT}"
            )
        versions = Versions(**found["versions"])
        config = load_config(json.dumps(found["config"]))
    except OSError as exc:
        raise VmError(f"{folder}: no saved machine there: {MACHINE}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise VmError(f"{folder}: no saved machine there: {type(exc).__name__}: {exc}") from exc
    for name in _FILES:
        if not (folder / name).is_file():
            raise VmError(f"{folder}: no saved machine there: {name} is missing")
    return Saved(folder, config, versions, bool(found.get("inside", False)))


def _open_unnamed(folder: Path) -> FileIO:
    return FileIO(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+")


def _give_name(fd: int, folder: Path, name: str) -> None:
    """Python follows the link that stands for the file only when it is given a folder's descriptor."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def _write_machine(path: Path, saved: Saved) -> None:
    versions, config = asdict(saved.versions), json.loads(dump_config(saved.config))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        machine = {"format": FORMAT, "inside": saved.inside, "versions": versions, "config": config}
        json.dump(machine, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
