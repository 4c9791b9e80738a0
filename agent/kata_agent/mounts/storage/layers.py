"""Layered roots: several disks of one container that become one overlay (EROFS snapshots, Nydus in EROFS). Pure.

Owns: the words `X-kata.multi-layer`, `X-kata.overlay-upper`, `X-kata.overlay-lower` and `X-kata.mkdir.path`. Must not
know: how a disk is found, checked or mounted. Follows: what Kata's hosts send since 3.24: storages that share one mount
point, the root; the agent mounts each on a place of its own and an overlay over them there. The older form, a storage
for each layer and an `overlayfs` storage that names their mount points, needs nothing of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import place
from kata_agent.mounts.storage.request import StorageRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKER = "X-kata.multi-layer=true"
UPPER = "X-kata.overlay-upper"
LOWER = "X-kata.overlay-lower"
MKDIR = "X-kata.mkdir.path="
OWN_LAYER = "io.katacontainers.fs-opt.overlay-rw"
ON_DISK = "io.katacontainers.volume.overlayfs.on-disk="
"""A folder of the writable layer, for the overlay's driver: it belongs to the disk's data, nobody removes it."""
_FIRST = "{{ mount 0 }}"


def is_layer(storage: StorageRequest) -> bool:
    """Whether it is one of several that become one root."""
    return MARKER in storage.options


def fold(user: str, storages: Sequence[StorageRequest]) -> list[StorageRequest]:
    """The storages with each group of layers replaced: every disk on a place of its own, then their overlay.

    A group stands where its first layer stood. Raises `InvalidRequest`.
    """
    folded: list[StorageRequest] = []
    done: set[str] = set()
    for storage in storages:
        target = storage.mount_point.rstrip("/")
        if not is_layer(storage):
            folded.append(storage)
        elif target not in done:
            done.add(target)
            group = [
                other for other in storages if is_layer(other) and other.mount_point.rstrip("/") == target
            ]
            folded += _fold_group(user, target, group, len(done) - 1)
    return folded


def _fold_group(user: str, target: str, group: list[StorageRequest], number: int) -> list[StorageRequest]:
    if not user:
        raise InvalidRequest(f"layers of {target}: only a container has a root of layers")
    uppers = [storage for storage in group if _is_upper(storage)]
    lowers = [storage for storage in group if not _is_upper(storage)]
    if len(uppers) > 1:
        raise InvalidRequest(f"layers of {target}: {len(uppers)} are writable ({UPPER}), one can be")
    if not lowers:
        raise InvalidRequest(f"layers of {target}: none is read-only ({LOWER})")
    base = f"{place.ROOT}/{user}/multi-layer" + (f"-{number}" if number else "")
    disks = [_move(layer, f"{base}/lower-{index}") for index, layer in enumerate(lowers)]
    lowerdir = ":".join(disk.mount_point for disk in disks)
    overlay = StorageRequest("overlayfs", "overlay", "overlay", target, (f"lowerdir={lowerdir}",))
    if not uppers:
        return [*disks, overlay._replace(options=(*overlay.options, OWN_LAYER))]
    upper = _move(uppers[0], f"{base}/upper")
    top = upper.mount_point
    folders = [f"{top}/upper", f"{top}/work", *find_folders(uppers[0].options, top)]
    options = (*overlay.options, f"upperdir={top}/upper", f"workdir={top}/work")
    made = tuple(f"{ON_DISK}{folder}" for folder in dict.fromkeys(folders))
    return [upper, *disks, overlay._replace(options=options, driver_options=made)]


def find_folders(options: Sequence[str], top: str) -> list[str]:
    """The folders of the writable layer that the host wants made: `X-kata.mkdir.path=PATH[:MODE...]`."""
    found = []
    for word in options:
        if not word.startswith(MKDIR):
            continue
        path = word.removeprefix(MKDIR).partition(":")[0].replace(_FIRST, top)
        if not path.startswith(f"{top}/") or ".." in path.split("/"):
            raise InvalidRequest(f"{word}: only folders of the writable layer, {_FIRST}/PATH, are made")
        found.append(path.rstrip("/"))
    return found


def _is_upper(storage: StorageRequest) -> bool:
    return UPPER in storage.options or (LOWER not in storage.options and storage.fstype != "erofs")


def _move(layer: StorageRequest, target: str) -> StorageRequest:
    """The layer on a place of its own, without the words that say what it is for."""
    ours = (MARKER, UPPER, LOWER)
    options = tuple(word for word in layer.options if word not in ours and not word.startswith(MKDIR))
    return layer._replace(mount_point=target, options=options)
