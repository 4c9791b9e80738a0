"""Handlers of a container's limits, figures and pausing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.services import oci
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.cgroups import stats


async def update_container(agent: Agent, request: pb.UpdateContainerRequest) -> Empty:
    """Change limits; without resources there is nothing to do, as in Kata's agent."""
    wanted = oci.resources(request.resources) if request.HasField("resources") else {}
    await agent.containers.controls.update(request.container_id, wanted, agent.worker.run)
    return Empty()


def stats_container(agent: Agent, request: pb.StatsContainerRequest) -> pb.StatsContainerResponse:
    """The container's figures. Networks are the host's: their list is always empty."""
    found = agent.containers.controls.read_stats(request.container_id)
    return pb.StatsContainerResponse(cgroup_stats=encode_stats(found))


async def pause_container(agent: Agent, request: pb.PauseContainerRequest) -> Empty:
    """Freeze a container."""
    await agent.containers.controls.pause(request.container_id)
    return Empty()


async def resume_container(agent: Agent, request: pb.ResumeContainerRequest) -> Empty:
    """Let a frozen container go on."""
    await agent.containers.controls.resume(request.container_id)
    return Empty()


def encode_stats(found: stats.Stats) -> pb.CgroupStats:
    """The message; what a missing controller would tell is absent."""
    return pb.CgroupStats(
        cpu_stats=found.cpu and _encode_cpu(found.cpu),
        memory_stats=found.memory and _encode_memory(found.memory),
        pids_stats=found.pids and pb.PidsStats(current=found.pids.current, limit=found.pids.limit),
        blkio_stats=None if found.io is None else _encode_io(found.io),
        hugetlb_stats={
            size: pb.HugetlbStats(usage=amount.usage, max_usage=amount.peak, failcnt=amount.failures)
            for size, amount in found.hugetlb.items()
        },
    )


def _encode_cpu(cpu: stats.Cpu) -> pb.CpuStats:
    throttling = cpu.throttling
    return pb.CpuStats(
        cpu_usage=pb.CpuUsage(
            total_usage=cpu.total_ns, usage_in_kernelmode=cpu.system_ns, usage_in_usermode=cpu.user_ns
        ),
        throttling_data=throttling
        and pb.ThrottlingData(
            periods=throttling.periods,
            throttled_periods=throttling.throttled_periods,
            throttled_time=throttling.throttled_ns,
        ),
    )


def _encode_memory(memory: stats.Memory) -> pb.MemoryStats:
    return pb.MemoryStats(
        cache=memory.cache,
        usage=_encode_amount(memory.usage),
        swap_usage=_encode_amount(memory.swap),
        kernel_usage=_encode_amount(memory.kernel),
        stats=memory.stats,
    )


def _encode_amount(amount: stats.Amount) -> pb.MemoryData:
    return pb.MemoryData(
        usage=amount.usage, max_usage=amount.peak, failcnt=amount.failures, limit=amount.limit
    )


def _encode_io(entries: tuple[stats.Io, ...]) -> pb.BlkioStats:
    """All figures in one list, as Kata's agent has them on v2."""
    return pb.BlkioStats(
        io_service_bytes_recursive=[
            pb.BlkioStatsEntry(major=entry.major, minor=entry.minor, op=entry.op, value=entry.value)
            for entry in entries
        ]
    )


HANDLERS = {
    "UpdateContainer": update_container,
    "StatsContainer": stats_container,
    "PauseContainer": pause_container,
    "ResumeContainer": resume_container,
}
