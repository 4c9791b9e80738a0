"""The agent without a PID 1 of ours: on a developer's machine, in a test, or under systemd.

Owns: the private mount namespace, so that nothing the agent mounts is ever seen outside; being the reaper of what
its containers leave behind; the socket it listens on. Must not know: the agent's methods.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kata_agent.parts import RUN_DIRECTORY
from kata_linux import hierarchy, mount, namespaces, prctl
from kata_linux.record import Record
from kata_protocols.aio import listen
from kata_protocols.aio.address import UnixAddress, parse_address

CGROUP_ROOT = "/sys/fs/cgroup"


def enter_private_world() -> None:
    """Leave the machine's mount namespace and become the reaper of orphans. Before any thread exists."""
    # A container takes up to nine descriptors. In a guest PID 1 has raised the limit for both of us.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    namespaces.make_private_mounts(propagation=mount.MS_SLAVE)
    # State of this agent alone: another one on the same machine has its own, and none of it stays.
    os.makedirs(RUN_DIRECTORY, mode=0o700, exist_ok=True)
    mount.mount("kata-agent", RUN_DIRECTORY, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=700")
    prctl.set_child_subreaper()
    hierarchy.show_hierarchy(CGROUP_ROOT)


class Nobody:
    """Stands where PID 1's descriptor store would be: nobody outlives this process to keep anything."""

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Nothing is kept."""

    def discard(self, name: str) -> None:
        """Nothing was kept."""


class Listener(Record):
    """A listening socket, and its file's path and identity when it has one."""

    socket: socket.socket
    path: str = ""
    identity: tuple[int, int] = (0, 0)


@contextmanager
def open_listener(text: str) -> Iterator[Listener]:
    """Listen on an address; a socket file is removed at the end unless another agent has replaced it."""
    address = parse_address(text)
    with listen.open_listener(address) as end:
        path = address.path if isinstance(address, UnixAddress) and address.path[0] != "\0" else ""
        listener = Listener(end, path, _identity(path) if path else (0, 0))
        try:
            yield listener
        finally:
            if path and _identity(path) == listener.identity:
                os.unlink(path)


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
