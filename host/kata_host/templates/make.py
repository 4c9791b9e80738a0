"""Makes a template: a machine boots, its agent warms up and brings it to a halt, and it is saved.

Owns: the order, and which machines can be templates. A copy maps the saved memory privately, so the machine has the
channel that needs no shared memory, and no share. Must not know: where templates lie, how a machine is saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

from kata_host.connect import open_caller
from kata_host.rootfs_image import ImageError, find_tool, make_image
from kata_host.sandbox_service import SandboxService
from kata_host.templates.store import Template, TemplateError, TemplateStore
from kata_host.vm.base import Timeline, VmConfig
from kata_host.vm.plug import Monitor
from kata_host.vm.qemu import QemuVm, launch
from kata_host.vm.root_image import DAX
from kata_host.vm.saved import save
from kata_protocols.gen import sandbox_pb2 as pb

SAVED = "saved"
WARM_TIMEOUT_MS = 100_000
DIAL_TIMEOUT_S = 30.0


def plan_source(config: VmConfig) -> VmConfig:
    """The machine that is saved. Raises `TemplateError`. Pure."""
    if config.image == DAX:
        raise TemplateError(
            f"image {DAX}: its memory is shared with the host, a template's is not; use erofs or ext4"
        )
    return replace(config, name=None, share=None, channel="serial", savable=True)


async def make_template(
    store: TemplateStore,
    name: str,
    config: VmConfig,
    *,
    replacing: bool = False,
    timeline: Timeline | None = None,
) -> Template:
    """Boot, warm up, save, publish; nothing is left when that fails.

    Raises `VmError`, `StateError`, `ChildFailed`, StatusError, OSError.
    """
    config = plan_source(config)
    timeline = timeline or Timeline()
    with store.draft(name, replace=replacing) as draft:
        async with launch(config, timeline) as vm:
            async with _plugged_prop(vm, draft.folder) as prop:
                await _quiesce(vm, prop)
            saved = await save(vm, draft.folder / SAVED)
            timeline.mark("saved")
        machine = {key: getattr(saved.config, key) for key in ("memory_mib", "cpus", "image")}
        return await asyncio.to_thread(draft.publish, asdict(saved.versions), machine)


@asynccontextmanager
async def _plugged_prop(vm: QemuVm, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A small disk to rehearse with: copies have their containers' roots on disks. PCI path and file system.

    Both are empty where no image can be made: then copies learn disks by themselves.
    """
    try:
        tool = find_tool()
    except ImageError:
        yield "", ""
        return
    empty, image = folder / "prop", folder / "prop.img"
    empty.mkdir()
    try:
        await make_image(tool, empty, image)
        monitor = Monitor(vm.qmp)
        disk = await monitor.plug_disk("prop", image, read_only=True)
        yield disk.address, tool.fstype
        await monitor.unplug(disk)
    finally:
        empty.rmdir()
        image.unlink(missing_ok=True)


async def _quiesce(vm: QemuVm, prop: tuple[str, str]) -> None:
    disk, fstype = prop
    request = pb.QuiesceRequest(warm=True, timeout_ms=WARM_TIMEOUT_MS, disk=disk, disk_fstype=fstype)
    async with await open_caller(vm.address, timeout_s=DIAL_TIMEOUT_S) as client:
        answer = await SandboxService(client).quiesce(request)
    for step in answer.steps:
        vm.timeline.mark(step.name, step.note)
