"""UpdateEphemeralMounts: memory volumes get the size that the guest's memory allows now.

Follows: Kata's agent 3.21, whose remount does nothing because the file system is mounted already. Every storage is
looked at before the first is changed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kata_agent.errors import NotSupported, WrongState
from kata_agent.mounts import ops, option, plan
from kata_agent.mounts.apply import apply_plan
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.ephemeral import drop_fsgid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_agent.mounts.storage.registry import Storages
    from kata_agent.mounts.storage.request import StorageRequest
    from kata_agent.worker import Worker

# No container can have this id.
USER = "/update"


async def update(requests: Sequence[StorageRequest], storages: Storages, worker: Worker) -> None:
    """Remount each, or mount what is not there yet; without options only the mount point is made."""
    for request in requests:
        if request.driver != "ephemeral":
            text = "Only ephemeral storage update is supported"
            raise NotSupported(f"Unsupported storage type for syncing mounts {request.driver}. {text}")
        plan.check(request)
        option.parse_options(request.options)
    for request in requests:
        if not request.options:
            await worker.run(partial(apply_plan, (ops.MakeDirectory(request.mount_point),)))
        elif "remount" in request.options:
            await worker.run(partial(_remount, drop_fsgid(request)))
        else:
            names = await storages.mount(USER, [request])
            storages.keep(USER)
            await storages.release(USER, names)


def _remount(request: StorageRequest) -> None:
    seen = observe(request)
    if seen.mounted_fstype is None:
        raise WrongState(f"remount {request.mount_point}: nothing is mounted there")
    apply_plan(plan.plan_mount(request, seen))
