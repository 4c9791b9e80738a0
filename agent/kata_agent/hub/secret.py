"""Sealed secrets of a container: in its environment and in the files that the host has copied for it.

Owns: what is looked at and what takes its place. Must not know: how a secret is unsealed. A secret that cannot be
unsealed stays as it is, and is told: a container may do without it. Follows: Kata's agent 3.21, "Trusted store and
sealed secrets"; differs where the plain text would leave the guest (a share of the host) or not last (a mirror of one).
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

from kata_agent import tree
from kata_agent.errors import AgentError, NotSupported, describe
from kata_agent.mounts import place
from kata_agent.mounts.mirror.watcher import is_on_other_machine
from kata_agent.mounts.storage.watchable import ROOTS, SHARE
from kata_linux import openat2
from kata_linux.record import Record

if TYPE_CHECKING:
    from kata_agent.hub.client import Hub
    from kata_agent.log import Log
    from kata_agent.worker import Worker

PREFIX = "sealed."
SUFFIX = ".unsealed"
# What kubelet puts below the share beside volumes.
NEVER = ("resolv.conf", "termination-log", "hostname", "hosts", "serviceaccount")
LIMIT_BYTES = 1 << 20


class Sealed(Record):
    """A file's name in its volume, the folder below the volume where it really is, and what is in it."""

    name: str
    folder: str
    content: bytes


async def unseal_environment(process: dict[str, Any], hub: Hub, log: Log) -> None:
    """Plain values in place of those that begin with `sealed.`."""
    env = process.get("env") or []
    for index, pair in enumerate(env):
        name, _, value = pair.partition("=")
        if not value.startswith(PREFIX):
            continue
        try:
            plain = await hub.unseal(f"environment variable {name}", value.encode())
            env[index] = f"{name}={plain.decode()}"
        except (AgentError, UnicodeDecodeError) as error:
            log.warning("confidential", "secret stays sealed", variable=name, error=describe(error))


def is_searched(source: str) -> bool:
    """Whether secrets are looked for in the source of a mount. Pure."""
    return source.startswith(SHARE) and not source.endswith(NEVER)


async def unseal_files(mounts: list[dict[str, Any]], hub: Hub, worker: Worker, log: Log) -> None:
    """Links to plain files in place of the sealed ones."""
    for source in dict.fromkeys(str(mount.get("source") or "") for mount in mounts):
        if not is_searched(source):
            continue
        try:
            for sealed in await worker.run(partial(find_sealed, source)):
                plain = await hub.unseal(f"file {source}/{sealed.name}", sealed.content)
                await worker.run(partial(replace, source, sealed, plain))
        except (AgentError, OSError) as error:
            log.warning("confidential", "secrets stay sealed", source=source, error=describe(error))


def find_sealed(source: str) -> list[Sealed]:
    """The sealed files right in a folder. Raises `NotSupported` where plain text must not be written."""
    with place.open_place_fd(source) as fd:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            return []
        with tree.open_below(fd, []) as folder:
            found = [sealed for name in sorted(os.listdir(folder)) if (sealed := _read(folder, name))]
    if found and any(source.startswith(f"{root}/") for root in ROOTS):
        raise NotSupported("sealed secrets in a volume that is kept up to date: copy the files instead")
    if found and is_on_other_machine(source):
        raise NotSupported("sealed secrets on the host's share: the plain text would be written there")
    return found


def replace(source: str, sealed: Sealed, plain: bytes) -> None:
    """The plain text beside the real file, and a link to it in place of the name that is seen."""
    name = f"{sealed.name}{SUFFIX}"
    with place.open_place_fd(source) as fd, tree.open_below(fd, []) as folder:
        real = openat2.openat2(fd, sealed.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _write(real, name, plain)
        finally:
            os.close(real)
        link = f".{name}.new"
        tree.remove(folder, link)
        os.symlink(f"{sealed.folder}/{name}" if sealed.folder != "." else name, link, dir_fd=folder)
        os.rename(link, sealed.name, src_dir_fd=folder, dst_dir_fd=folder)


def _read(folder: int, name: str) -> Sealed | None:
    """The file behind a name, through links that stay in the volume, if it is a sealed one."""
    try:
        fd = openat2.openat2(folder, name, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None  # a link that leads nowhere or out of the volume
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        content = os.pread(fd, LIMIT_BYTES, 0)
        if not content.startswith(PREFIX.encode()):
            return None
        root = os.readlink(f"/proc/self/fd/{folder}")
        real = os.path.relpath(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")), root)
        return Sealed(name, real, content)
    finally:
        os.close(fd)


def _write(folder: int, name: str, plain: bytes) -> None:
    tree.remove(folder, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(plain)
    finally:
        os.close(fd)
