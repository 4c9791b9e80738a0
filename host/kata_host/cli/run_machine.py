"""The machine that `run` uses, and where the container's root is in it: a shared folder, or in a copy a disk.

Owns: what differs between a machine that is booted, a copy of a template and one that a pool had ready. Must not know:
what runs in the container.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kata_host.cli.copies import find_window, read_copy, read_own
from kata_host.guest import find_default_rootfs, find_guest
from kata_host.rootfs_image import RootImage, find_image
from kata_host.sandbox import make_id
from kata_host.templates.copy import ROOT, Own, open_copy
from kata_host.templates.store import find_cache_root
from kata_host.templates.window import take
from kata_host.vm.base import GUEST_SHARE, Accelerator, Timeline, VmConfig, VmError
from kata_host.vm.qemu import launch
from kata_protocols.gen import agent_pb2 as pb

_END_TIMEOUT_S = 15.0


class Machine(Protocol):
    """As much of a machine as `run` needs."""

    address: str
    accelerator: Accelerator
    timeline: Timeline

    async def explain_loss(self, seen: Exception) -> VmError:
        """What to tell when the connection to the guest is gone."""


@dataclass(frozen=True)
class Root:
    """Where the container's root is in the guest, what is mounted for it, and the container's id if that is in it."""

    path: str = GUEST_SHARE
    storages: tuple[pb.Storage, ...] = ()
    container_id: str | None = None

    @property
    def is_share(self) -> bool:
        """Whether it is the machine's shared folder."""
        return not self.storages


@dataclass
class PooledVm:
    """A machine that a pool had ready; another process keeps it."""

    address: str
    accelerator: Accelerator
    timeline: Timeline

    async def explain_loss(self, seen: Exception) -> VmError:
        """No more than the connection tells."""
        return VmError(f"the guest ended while it was used: {seen}")


@asynccontextmanager
async def open_booted(config: VmConfig, timeline: Timeline) -> AsyncIterator[tuple[Machine, Root]]:
    """A machine that is booted, with a shared folder."""
    async with launch(config, timeline) as vm:
        yield vm, Root()


@asynccontextmanager
async def open_copied(options: argparse.Namespace, timeline: Timeline) -> AsyncIterator[tuple[Machine, Root]]:
    """A copy with an image of the root as a disk. Raises `VmError`, and what `launch` raises."""
    folder = options.rootfs or find_default_rootfs(find_guest(options.guest_dir))
    image = await find_image(Path(folder), find_cache_root() / "roots")
    timeline.mark("root image ready", image.fstype)
    own = read_own(options, image.path)
    if options.pool:
        async with _open_pooled(options.pool, own, timeline) as (pooled, address):
            yield pooled, plan_root(image, address, writable=options.read_write)
        return
    async with open_copy(read_copy(options), own, timeline) as vm:
        yield vm, plan_root(image, vm.plugged[ROOT], writable=options.read_write)


def plan_root(image: RootImage, address: str, *, writable: bool) -> Root:
    """A root on a disk; what is written goes to a layer in the guest's memory. Pure."""
    container_id = make_id()
    path = f"/run/kata-containers/{container_id}/rootfs"
    layer = ("X-kata.multi-layer=true", "X-kata.overlay-lower") if writable else ()
    storage = pb.Storage(
        driver="blk", source=address, fstype=image.fstype, mount_point=path, options=[*image.options, *layer]
    )
    return Root(path, (storage,), container_id)


@asynccontextmanager
async def _open_pooled(name: str, own: Own, timeline: Timeline) -> AsyncIterator[tuple[PooledVm, str]]:
    """It ends with the context, or with this process."""
    taken = await take(find_window(name))
    owner = -1
    try:
        timeline.mark("taken", taken.name)
        description = await taken.go_on({**own.dump(), "leash": True})
        owner = os.pidfd_open(int(str(description["owner_pid"])))
        timeline.mark("resumed")
        accelerator = description["accelerator"], description["accelerator_reason"]
        vm = PooledVm(str(description["address"]), Accelerator(*accelerator), timeline)  # type: ignore[arg-type]
        plugged = description["plugged"]
        assert isinstance(plugged, dict)  # noqa: S101 - a description has it
        yield vm, plugged[ROOT]
    finally:
        taken.close()
        if owner >= 0:
            await _wait_end(owner, taken.name)


async def _wait_end(pidfd: int, name: str) -> None:
    """Wait until its keeper has taken it down."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(_END_TIMEOUT_S):
            await ended.wait()
    except TimeoutError:
        raise VmError(f"{name}: its keeper did not end within {_END_TIMEOUT_S:g} s") from None
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
