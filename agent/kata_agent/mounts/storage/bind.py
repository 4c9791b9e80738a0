"""`bind`: a folder or file of the guest, shown in another place; read-only when `ro` says so."""

from __future__ import annotations

import errno
import os

from kata_agent.mounts import plan
from kata_agent.mounts.ops import Op
from kata_agent.mounts.storage.driver import observe
from kata_agent.mounts.storage.request import StorageRequest


def plan_storage(storage: StorageRequest) -> tuple[Op, ...]:
    """Bind source to mount point, with or without the word `bind` among the options."""
    request = storage._replace(fstype=storage.fstype or "bind")
    if not {"bind", "rbind"} & set(request.options):
        request = request._replace(options=("bind", *request.options))
    plan.check(request)
    if not os.path.lexists(request.source):
        raise FileNotFoundError(errno.ENOENT, "bind mount: No such file or directory", request.source)
    return plan.plan_mount(request, observe(request))
