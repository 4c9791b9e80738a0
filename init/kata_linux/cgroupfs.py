"""cgroup v2: its control files (Documentation/admin-guide/cgroup-v2.rst).

Owns: reading and writing one file, and what needs several of them. Must not know: which groups there should
be. Files are opened without O_CREAT, so that a misspelt name fails in a test's plain folder as it does in the
kernel. Every function takes the group's folder.
"""

from __future__ import annotations

import errno
import os

from kata_linux._libc import fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# More than the longest control file has (memory.stat and io.stat of a large machine are below 16 KiB).
_READ_BYTES = 65536
# A file that is not there, a group that went while it was read, a controller that is off.
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


class Files:
    """A group whose files are read one after the other: one path walk for all of them."""

    def __init__(self, group: str) -> None:
        self._group = group
        try:
            self._fd = os.open(group, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            fail(error.errno or 0, "open cgroup", group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, name: str) -> str | None:
        """The file's text by one read; None where the kernel or the group has no such file."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            fail(error.errno or 0, "open", f"{self._group}/{name}")
        try:
            return os.read(fd, _READ_BYTES).decode()
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            fail(error.errno or 0, "read", f"{self._group}/{name}")
        finally:
            os.close(fd)


def read_control(group: str, name: str) -> str:
    """The whole text of a control file."""
    path = f"{group}/{name}"
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        fail(error.errno or 0, "read", path)


def write_control(group: str, name: str, value: str) -> None:
    """Write one value in one write call, as the kernel wants it."""
    path = f"{group}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        fail(error.errno or 0, f"write {value!r} to", path)


def read_flat(group: str, name: str) -> dict[str, int]:
    """A file of `key number` lines (cgroup.events, memory.stat, cpu.stat, ...)."""
    return parse_flat(read_control(group, name))


def parse_flat(text: str) -> dict[str, int]:
    """The pairs of such a file's text."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def read_controllers(group: str) -> list[str]:
    """Controllers that this group may hand to its children."""
    return read_control(group, "cgroup.controllers").split()


def enable_controllers(group: str) -> list[OSError]:
    """Hand every controller to the children, one by one; gives the failures: one must not stop the rest."""
    failures = []
    for controller in read_controllers(group):
        try:
            write_control(group, "cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            failures.append(error)
    return failures


def list_processes(group: str) -> list[int]:
    """Ids of the processes that are in this very group."""
    return [int(line) for line in read_control(group, "cgroup.procs").split()]


def add_process(group: str, pid: int) -> None:
    """Move a process, with all of its threads, into the group."""
    write_control(group, "cgroup.procs", str(pid))


def is_populated(group: str) -> bool:
    """Whether any process is in the group or below it."""
    return read_flat(group, "cgroup.events").get("populated") == 1


def is_freezing(group: str) -> bool:
    """Whether the group is, or is becoming, frozen by its own switch."""
    return read_control(group, "cgroup.freeze").strip() == "1"


def set_frozen(group: str, *, frozen: bool) -> None:
    """Freeze or thaw the group and all below it; `frozen 1` in cgroup.events tells when it has come about."""
    write_control(group, "cgroup.freeze", "1" if frozen else "0")


def kill(group: str) -> None:
    """SIGKILL everything in the group and below it (cgroup.kill, Linux 5.14)."""
    write_control(group, "cgroup.kill", "1")


def signal_all(group: str, number: int) -> int:
    """Signal every process in the group and below it; gives how many. One that forks meanwhile may escape."""
    count = 0
    for folder, _, _ in os.walk(group):
        for pid in list_processes(folder):
            try:
                os.kill(pid, number)
                count += 1
            except ProcessLookupError:
                pass  # gone since the list was read: signalled enough
    return count


def remove(group: str) -> None:
    """Remove the group and the groups below it; EBUSY while processes are in them. Gone already is fine."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise
            fail(error.errno or 0, "remove cgroup", folder)
