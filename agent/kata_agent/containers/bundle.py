"""The bundle: the folder that crun is given, with `config.json` and the root file system bound at `rootfs`.

Owns that folder and the one mount in it. Must not know: storages, processes. Follows: Kata's agent, CreateContainer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kata_agent.errors import InvalidRequest
from kata_linux import mount

if TYPE_CHECKING:
    from kata_agent.containers.undo import Undo


def check_root(path: str) -> None:
    """The root must be an absolute folder that is reached without a link: what is bound is what was named."""
    clean = os.path.normpath(path) if path else ""
    if not clean.startswith("/"):
        raise InvalidRequest(f"root path {path!r} is not absolute")
    if not os.path.isdir(clean):
        raise InvalidRequest(f"root path {path}: there is no such folder")
    if os.path.realpath(clean) != clean:
        raise InvalidRequest(f"root path {path}: a part of it is a symbolic link")


def make(bundle: str, root: str, undo: Undo) -> None:
    """Make the folder and bind `root` at its `rootfs`, unless a storage is mounted there already."""
    if not os.path.isdir(bundle):
        os.makedirs(bundle, 0o711)
        undo.push(f"remove {bundle}", lambda: remove(bundle, mounted=False))
    rootfs = f"{bundle}/rootfs"
    if os.path.isdir(rootfs):
        return
    check_root(root)
    os.mkdir(rootfs, 0o755)
    mount.bind(root, rootfs)
    undo.push(f"unmount {rootfs}", lambda: mount.umount(rootfs, mount.MNT_DETACH))


def write_config(bundle: str, spec: dict[str, Any]) -> None:
    """Write the spec that crun reads."""
    import json  # not needed by an idle agent

    with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(spec))


def remove(bundle: str, *, mounted: bool) -> None:
    """Unmount the root and remove the folder; nothing below `rootfs` is ever deleted."""
    rootfs = f"{bundle}/rootfs"
    if mounted:
        try:
            mount.umount(rootfs, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (22, 2):  # EINVAL: not mounted (any more); ENOENT: never was
                raise
    found = []
    for directory, folders, files in os.walk(bundle):
        if directory == bundle and "rootfs" in folders:
            folders.remove("rootfs")  # not looked into: what is mounted there is not ours
            found.append(rootfs)
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
