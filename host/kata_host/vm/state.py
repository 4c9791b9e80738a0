"""Owns the folders in which running virtual machines keep sockets, logs and their description.

One folder per machine under a per-user runtime directory. Its owner holds a lock on `lock` for as long as the
machine lives, so a folder whose lock is free is stale, however its owner ended; the next start or list removes
it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

# sun_path holds 107 bytes; the longest name below a state folder is "vsock_4294967295".
_LONGEST_FOLDER = 107 - len("/vsock_4294967295")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")

DESCRIPTION = "vm.json"


class StateError(Exception):
    """A state folder cannot be used; the text says which and why."""


def find_state_root(environ: dict[str, str] | None = None) -> Path:
    """Where this user's machines live: `KATA_VM_DIR`, else the user's runtime directory, else a private one in /tmp."""
    env = os.environ if environ is None else environ
    if chosen := env.get("KATA_VM_DIR"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/run/kata-guest")
    if runtime := env.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "kata-guest"
    return Path(f"/tmp/kata-guest-{os.geteuid()}")  # noqa: S108 - checked to be ours alone by make_private


def make_private(folder: Path, advice: str = "set KATA_VM_DIR") -> Path:
    """Make `folder` for this user alone, or refuse one that belongs to somebody else."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StateError(f"{folder}: must be a folder of yours that nobody else may write; {advice}")
    return folder


class VmState(AbstractContextManager["VmState"]):
    """A machine's folder, locked; leaving the context removes it."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.path.name

    def file(self, name: str) -> Path:
        """A path inside the folder."""
        return self.path / name

    def describe(self, description: dict[str, object]) -> None:
        """Write what `vm list` and `vm stop` need; appears at once and whole."""
        draft = self.path / f"{DESCRIPTION}.new"
        draft.write_text(json.dumps(description, indent=1) + "\n")
        draft.replace(self.path / DESCRIPTION)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # The name is not given to another machine before all of this one's is gone.
            with lock_root(self.path.parent):
                shutil.rmtree(self.path, ignore_errors=True)
        except FileNotFoundError:
            pass  # somebody has removed them all
        finally:
            os.close(self._lock_fd)

    def __enter__(self) -> Self:
        return self


def check_name(name: str, what: str) -> str:
    """The name, which can be a file's, too. Raises `StateError`."""
    if not _NAME.fullmatch(name):
        raise StateError(
            f"{name!r}: {what} is up to 32 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return name


def open_state(name: str | None, root: Path | None = None, *, taken: str | None = None) -> VmState:
    """A new, locked folder; stale ones are swept first. A name that is in use is refused: in the words of `taken`."""
    root = make_private(root or find_state_root())
    chosen = name or f"vm-{secrets.token_hex(4)}"
    check_name(chosen, "a machine's name")
    path = root / chosen
    if len(os.fsencode(path)) > _LONGEST_FOLDER:
        raise StateError(f"{path}: too long for unix sockets inside; set KATA_VM_DIR to a shorter folder")
    with lock_root(root):
        _sweep(root)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            raise StateError(
                taken
                or f"a machine named {chosen!r} is running; stop it with: kata-agent-ctl vm stop {chosen}"
            ) from None
        lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)  # new: nobody has it but for the moment in which somebody looks
    return VmState(path, lock_fd)


@contextmanager
def lock_root(root: Path) -> Iterator[None]:
    """Held for microseconds, by whoever makes or sweeps folders: no folder is ever seen half made."""
    fd = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_owned(path: Path) -> bool:
    """Whether a live process holds the folder's lock."""
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who look at once are no owners to each other
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _sweep(root: Path) -> None:
    for path in root.iterdir():
        if path.is_dir() and not is_owned(path):
            shutil.rmtree(path, ignore_errors=True)


def sweep_stale(root: Path | None = None) -> None:
    """Remove the folders of machines whose owner is gone."""
    root = root or find_state_root()
    if root.is_dir():
        with lock_root(root):
            _sweep(root)


def list_descriptions(root: Path | None = None) -> list[dict[str, object]]:
    """What each machine's owner wrote, with `running`; machines still booting have none yet and are left out."""
    root = root or find_state_root()
    if not root.is_dir():
        return []
    found: list[dict[str, object]] = []
    for path in sorted(root.iterdir()):
        try:
            description = json.loads((path / DESCRIPTION).read_text())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            continue
        found.append({**description, "running": is_owned(path)})
    return found
