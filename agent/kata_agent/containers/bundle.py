"""The bundle: the folder that crun is given, with `config.json` and the root file system bound at `rootfs`.

Owns that folder and the one mount that it makes in it; a storage may have been mounted at `rootfs` before, which is
not ours. Must not know: storages, processes. Follows: Kata's agent, CreateContainer.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from kata_agent.errors import InvalidRequest
from kata_linux import mount


def check_root(path: str) -> None:
    """The root must be an absolute folder that is reached without a link: what is bound is what was named."""
    clean = os.path.normpath(path) if path else ""
    if not clean.startswith("/"):
        raise InvalidRequest(f"root path {path!r} is not absolute")
    if not os.path.isdir(clean):
        raise InvalidRequest(f"root path {path}: there is no such folder")
    if os.path.realpath(clean) != clean:
        raise InvalidRequest(f"root path {path}: a part of it is a symbolic link")


def make(bundle: str, root: str) -> bool:
    """Make the folder and bind `root` at its `rootfs`; False when a storage made that folder already.

    An empty folder there is what an agent that was killed has left, unless it is the root that is asked for.
    """
    rootfs = f"{bundle}/rootfs"
    if os.path.isdir(rootfs) and (os.path.normpath(root) == rootfs or os.listdir(rootfs)):
        return False
    check_root(root)
    os.makedirs(rootfs, 0o755, exist_ok=True)
    mount.bind(root, rootfs)
    return True


def unmount(bundle: str) -> None:
    """Let go of the bound root; one that is not there (any more) is fine."""
    try:
        mount.umount(f"{bundle}/rootfs", mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def write_config(bundle: str, spec: dict[str, Any]) -> None:
    """Write the spec that crun reads."""
    write_json(f"{bundle}/config.json", spec)


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a file that crun reads: a spec, a process, new resources."""
    import json  # not needed by an idle agent

    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(value))


def remove(bundle: str) -> None:
    """Remove the folder; nothing below `rootfs` is ever deleted, EBUSY when something is mounted there still."""
    found = []
    for directory, folders, files in os.walk(bundle):
        if directory == bundle and "rootfs" in folders:
            folders.remove("rootfs")  # not looked into: what is mounted there is not ours
            found.append(f"{bundle}/rootfs")
        found += [f"{directory}/{name}" for name in (*files, *folders)]
    for path in reversed(found):
        _remove_entry(path)
    try:
        os.rmdir(bundle)
    except FileNotFoundError:
        pass  # never made


def _remove_entry(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    else:
        os.unlink(path)
