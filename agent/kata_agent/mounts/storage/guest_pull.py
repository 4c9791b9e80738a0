"""`image_guest_pull`: a root whose image the guest itself pulls, through the confidential data hub; and the sandbox's
pause container, whose image is part of the guest.

Owns: reading the request, and what is done in the file system. Must not know: the hub, whose caller is handed in.
Follows: Kata's agent 3.21, "Pull flow".
"""

from __future__ import annotations

import json
import os
from typing import Any, Protocol

from kata_agent.errors import AgentError, InvalidRequest, NotFound
from kata_agent.mounts import ops, place, plan
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.mounts.undo import RemoveTree, Undo, Unmount
from kata_linux.record import Record

DRIVER = "image_guest_pull"
OPTION = "image_guest_pull="
PAUSE_BUNDLE = "/pause_bundle"
CONTAINER_TYPES = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")


class Puller(Protocol):
    """Who has images pulled."""

    async def pull_image(self, reference: str, bundle: str) -> None:
        """Have an image's root made at `<bundle>/rootfs`."""


class Pull(Record):
    """What is wanted: the image, the bundle, and whether it is the guest's own pause image."""

    reference: str
    bundle: str
    is_pause: bool


def parse(storage: StorageRequest) -> Pull:
    """The request. Raises `InvalidRequest`. Pure."""
    if not storage.user:
        raise InvalidRequest(f"{DRIVER}: only a container's root can be an image")
    bundle = f"{place.ROOT}/{storage.user}"
    if storage.mount_point.rstrip("/") != f"{bundle}/rootfs":
        raise InvalidRequest(f"{DRIVER}: mount point {storage.mount_point!r}: {bundle}/rootfs is needed")
    words = [word.removeprefix(OPTION) for word in storage.driver_options if word.startswith(OPTION)]
    if not words:
        raise InvalidRequest(f"{DRIVER}: no driver option {OPTION}JSON")
    try:
        metadata = json.loads(words[0]).get("metadata") or {}
        kinds = {metadata.get(name) for name in CONTAINER_TYPES}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InvalidRequest(f"{DRIVER}: driver option {OPTION} is no JSON object with metadata") from None
    if not storage.source:
        raise InvalidRequest(f"{DRIVER}: the source is empty: the image's name is needed")
    return Pull(storage.source, bundle, "sandbox" in kinds)


def plan_storage(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """What there is to do when the hub has done its part, which for the pause image is nothing."""
    return plan_storage_from(storage, PAUSE_BUNDLE)


def plan_storage_from(storage: StorageRequest, pause: str) -> tuple[ops.Op, ...]:
    """The same, with the pause image in the folder `pause`."""
    pull = parse(storage)
    root = f"{pull.bundle}/rootfs"
    plan.check_path(root)
    if not pull.is_pause:
        return (ops.TakeRoot(root),)
    program = read_pause_process(pause)["args"][0]
    return (
        ops.MakeVolume(root),
        ops.CopyProgram(f"{pause}/rootfs", root, program.lstrip("/")),
    )


def steps_of(pull: Pull) -> tuple[Undo, ...]:
    """What undoes a pull, whatever it has come to. Pure."""
    root = f"{pull.bundle}/rootfs"
    return (RemoveTree(root), Unmount(root, perhaps=True))


def read_pause_process(folder: str = PAUSE_BUNDLE) -> dict[str, Any]:
    """The process of the guest's pause image. Raises `NotFound`, `AgentError`."""
    path = f"{folder}/config.json"
    if not os.path.isdir(folder):
        raise NotFound(f"Pause image not present in rootfs: there is no {folder}")
    try:
        with open(path, encoding="utf-8") as file:
            process = json.load(file)["process"]
        str.strip(process["args"][0])
    except OSError as error:
        raise AgentError(f"pause image: {path}: {os.strerror(error.errno or 0)}") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise AgentError(f"pause image: {path} has no process with arguments ({error!r})") from None
    found: dict[str, Any] = process
    return found


def is_sandbox(annotations: dict[str, str]) -> bool:
    """Whether a container's annotations say that it is the sandbox's own. Pure."""
    return any(annotations.get(name) == "sandbox" for name in CONTAINER_TYPES)
