"""The agent's share of a disk's hotplug: from the kernel's event about the disk until its file system is mounted, by
the guest's own stamps, beside what the mount system call took of it in the same run.

The container is asked for first and the disk plugged then, so that the agent waits for the event; where the event was
first, the share counts from the request. The agent may have three times the mount and 5 ms, under emulation 50 ms.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from kata_bench.native import ROOT
from kata_bench.result import Effort, Result, median_result
from kata_host.connect import connect, open_caller
from kata_host.sandbox import Sandbox, open_sandbox
from kata_host.sandbox_service import SandboxService
from kata_host.spec import ProcessPlan, plan_spec
from kata_host.vm.base import GuestFiles, VmConfig
from kata_host.vm.plug import Monitor, open_monitor
from kata_host.vm.qemu import launch
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import sandbox_pb2

_GUEST = ROOT / "build" / "guest"
_VSOCK = ROOT / "build" / "tools" / "vhost-device-vsock"
_PLACE = "/run/kata-containers/sandbox/storage/hot"
_TIMES = 50
_MOUNT_FACTOR = 3
_BYTES = 64 << 20


def make_disk(path: Path) -> None:
    """A sparse ext4 image."""
    with path.open("wb") as file:
        file.truncate(_BYTES)
    subprocess.run(["mkfs.ext4", "-q", path], check=True, timeout=60)


async def plug_once(
    sandbox: Sandbox, service: SandboxService, monitor: Monitor, address: str, image: Path
) -> sandbox_pb2.Device:
    """Ask for a container with the disk, plug it, take both away; what the agent noted of it."""
    storage = pb.Storage(driver="blk", source=address, fstype="ext4", mount_point=_PLACE)
    spec = plan_spec(ProcessPlan(["true"]), "/")
    async with asyncio.TaskGroup() as group:
        creating = group.create_task(sandbox.create(spec, storages=[storage]))
        plugging = group.create_task(monitor.plug_disk("hot", image))
    devices = (await service.list_devices()).devices
    await creating.result().remove()
    await monitor.unplug(plugging.result())
    return next(device for device in devices if device.state == "mounted")


async def measure_in_vm(effort: Effort, folder: Path) -> list[Result]:
    """Boot, plug and pull, and leave nothing behind."""
    make_disk(folder / "disk")
    guest = GuestFiles(_GUEST / "vmlinuz", _GUEST / "initrd.img", _VSOCK if _VSOCK.exists() else None)
    share = folder / "share"
    share.mkdir()
    config = VmConfig(guest=guest, share=share, kernel_args=("agent.hotplug_timeout=30",))
    async with (
        launch(config) as vm,
        open_monitor(vm.qmp_socket) as monitor,
        await connect(vm.address) as client,
        open_sandbox(client) as sandbox,
        await open_caller(vm.address) as caller,
    ):
        service = SandboxService(caller)
        first = await monitor.plug_disk("hot", folder / "disk")
        await monitor.unplug(first)  # for the address that the disk will have
        devices = [
            await plug_once(sandbox, service, monitor, first.address, folder / "disk")
            for _ in range(effort.pick(_TIMES, 3))
        ]
        return summarize(devices, vm.accelerator.name)


def summarize(devices: list[sandbox_pb2.Device], accelerator: str) -> list[Result]:
    """The figures in ms. Pure."""
    shares = [(d.mounted_ns - max(d.event_ns, d.asked_ns)) / 1e6 for d in devices]
    mounts = [d.mount_ns / 1e6 for d in devices]
    waited = sum(d.asked_ns < d.event_ns for d in devices)
    beyond = statistics.median(shares) - _MOUNT_FACTOR * statistics.median(mounts)
    figure = "hotplug-beyond" if accelerator == "kvm" else "hotplug-beyond-tcg"
    return [
        median_result(
            "hotplug-share", shares, f"{waited} of {len(devices)} were asked for before their event"
        ),
        median_result("hotplug-mount", mounts),
        Result(figure, beyond, note=accelerator),
    ]


def measure_hotplug(effort: Effort) -> list[Result]:
    """The figures of a disk's hotplug."""
    with TemporaryDirectory(prefix="kata-bench-") as folder:
        return asyncio.run(measure_in_vm(effort, Path(folder)))
