"""`overlayfs`: layers that are there already, as one root; the writable layer is the host's or one of our own.

Follows: Kata's agent 3.21, "overlayfs". The marker that asks for a writable layer does not reach the kernel.
"""

from __future__ import annotations

from kata_agent.errors import InvalidRequest
from kata_agent.mounts import ops, place, plan
from kata_agent.mounts.storage import layers
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.request import StorageRequest

MARKER = "io.katacontainers.fs-opt.overlay-rw"
CREATE_DIRECTORY = "io.katacontainers.volume.overlayfs.create_directory="


def plan_storage(storage: StorageRequest) -> tuple[ops.Op, ...]:
    """Make the folders that the layers need, then mount."""
    own: tuple[ops.Op, ...] = ()
    if MARKER in storage.options:
        storage, own = _add_layer(storage)
    plan.check(storage)
    folders = []
    for word in storage.driver_options:
        if word.startswith(CREATE_DIRECTORY):
            path = word.removeprefix(CREATE_DIRECTORY)
            plan.check_path(path)
            folders.append(ops.MakeDirectory(path))
        elif word.startswith(layers.ON_DISK):
            folders.append(ops.MakeDirectory(word.removeprefix(layers.ON_DISK), lasting=True))
    return (*own, *folders, *plan.plan_mount(storage, observe(storage)))


def _add_layer(storage: StorageRequest) -> tuple[StorageRequest, tuple[ops.Op, ...]]:
    """A writable layer beside the container's bundle; it goes with the mount."""
    if not storage.user:
        raise InvalidRequest(f"{MARKER}: only a container's storage can have a writable layer of its own")
    upper, work = (f"{place.ROOT}/{storage.user}/{name}" for name in ("upper", "work"))
    options = (*storage.options, f"upperdir={upper}", f"workdir={work}")
    return (
        storage._replace(fstype="overlay", options=options),
        (ops.MakeVolume(upper), ops.MakeVolume(work)),
    )
