"""Handlers about volumes that are mounted, and swap."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kata_agent.services.storage import decode_storages
from kata_protocols.gen import csi_pb2
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.mounts.volume import DiskTooSmall, Usage
    from kata_protocols.gen import agent_pb2


async def update_ephemeral_mounts(agent: Agent, request: agent_pb2.UpdateEphemeralMountsRequest) -> Empty:
    """Give memory volumes another size."""
    from kata_agent.mounts.storage import update

    await update.update(decode_storages(request.storages), agent.storages, agent.worker)
    return Empty()


async def get_volume_stats(
    agent: Agent, request: agent_pb2.VolumeStatsRequest
) -> csi_pb2.VolumeStatsResponse:
    """How full a volume is."""
    from kata_agent.mounts import volume

    path = request.volume_guest_path
    size, inodes = await agent.doubtful.run(f"look at {path}", partial(volume.read_usage, path))
    return csi_pb2.VolumeStatsResponse(
        usage=[
            _usage(size, csi_pb2.VolumeUsage.BYTES),
            _usage(inodes, csi_pb2.VolumeUsage.INODES),
        ],
        volume_condition=csi_pb2.VolumeCondition(abnormal=False, message="OK"),
    )


async def resize_volume(agent: Agent, request: agent_pb2.ResizeVolumeRequest) -> Empty:
    """Grow a volume's file system; a disk that the host has just grown is waited for."""
    from kata_agent.mounts import volume

    grow = partial(volume.resize, request.volume_guest_path, request.size)
    try:
        await agent.worker.run(grow)
    except volume.DiskTooSmall as small:
        await _wait_grown(agent, small, request.size)
        await agent.worker.run(grow)
    return Empty()


async def _wait_grown(agent: Agent, small: DiskTooSmall, size: int) -> None:
    """Until the kernel has heard of the disk's new size; raises what was wrong when it does not."""
    from kata_agent.devices.match import GrownDisk
    from kata_agent.errors import TimedOut

    try:
        await agent.hotplug.wait(GrownDisk(small.device, size))
    except TimedOut:
        raise small from None


async def remove_stale_virtiofs_share_mounts(
    agent: Agent, _request: agent_pb2.RemoveStaleVirtiofsShareMountsRequest
) -> Empty:
    """Make the host's file server forget what the host has moved away."""
    from kata_agent.mounts import stale

    await stale.touch_share_mounts(agent.doubtful, agent.log)
    return Empty()


async def add_swap(agent: Agent, request: agent_pb2.AddSwapRequest) -> Empty:
    """Swap to a disk that the host has plugged in, by the slots of its PCI path."""
    from kata_agent.devices.match import PciBlock
    from kata_linux import swap

    matcher = PciBlock("/".join(f"{slot:02x}" for slot in request.PCIPath))
    arrival = await agent.device_book.wait("swap", matcher)
    await agent.worker.run(partial(swap.swap_on, arrival.found.node))
    return Empty()


async def add_swap_path(agent: Agent, request: agent_pb2.AddSwapPathRequest) -> Empty:
    """Swap to a device or file that the host has prepared."""
    from kata_linux import swap

    await agent.worker.run(partial(swap.swap_on, request.path))
    return Empty()


def _usage(usage: Usage, unit: csi_pb2.VolumeUsage.Unit) -> csi_pb2.VolumeUsage:
    return csi_pb2.VolumeUsage(total=usage.total, available=usage.available, used=usage.used, unit=unit)


HANDLERS = {
    "UpdateEphemeralMounts": update_ephemeral_mounts,
    "GetVolumeStats": get_volume_stats,
    "ResizeVolume": resize_volume,
    "RemoveStaleVirtiofsShareMounts": remove_stale_virtiofs_share_mounts,
    "AddSwap": add_swap,
    "AddSwapPath": add_swap_path,
}
