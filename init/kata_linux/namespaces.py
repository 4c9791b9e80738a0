"""Namespaces: unshare(2), setns(2), and keeping one alive by a bind mount (namespaces(7)).

Owns: the calls. Must not know: which namespaces a sandbox shares.
"""

from __future__ import annotations

import os

from kata_linux import mount
from kata_linux._libc import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# The ones a thread can leave alone, by their names in /proc/PID/ns.
KINDS = {"ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS, "net": CLONE_NEWNET, "cgroup": CLONE_NEWCGROUP}

PERSIST_DEADLINE_S = 10.0


def unshare(flags: int) -> None:
    """Give the calling thread (for CLONE_NEWPID: its children) namespaces of its own."""
    call("unshare", flags, operation="unshare")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace that `fd` stands for; `flags` says which kind it must be."""
    call("setns", fd, flags, operation="setns")


def make_private_mounts(*, propagation: int = mount.MS_PRIVATE) -> None:
    """Give this process a mount namespace whose changes nobody else sees."""
    unshare(CLONE_NEWNS)
    mount.set_propagation("/", propagation, recursive=True)


def persist(kind: str, path: str, prepare: Callable[[], None] | None = None) -> None:
    """Make a namespace of this kind and keep it at `path` (a file) until that is unmounted.

    A throw-away thread makes it, so the caller stays where it is; `prepare` runs in there before (a host
    name).
    """
    import threading  # the agent has it anyway; an idle PID 1 has not

    failures: list[BaseException] = []

    def make() -> None:
        try:
            unshare(KINDS[kind])
            if prepare is not None:
                prepare()
            mount.bind(f"/proc/thread-self/ns/{kind}", path)
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            failures.append(error)

    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    thread = threading.Thread(target=make, name=f"persist-{kind}", daemon=True)
    thread.start()
    thread.join(PERSIST_DEADLINE_S)
    if thread.is_alive():
        raise TimeoutError(110, f"persist {kind} namespace: not done in {PERSIST_DEADLINE_S:g} s", path)
    if failures:
        raise failures[0]
