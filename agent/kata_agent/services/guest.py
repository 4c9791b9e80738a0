"""Handlers about the guest as a whole: details, clock, random numbers, processors and memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kata_protocols.gen import agent_pb2
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.devices.match import Matcher


def get_guest_details(agent: Agent, request: agent_pb2.GuestDetailsRequest) -> agent_pb2.GuestDetailsResponse:
    """What the host must know before it plugs memory or sends a seccomp filter."""
    from kata_agent.guest import details

    found = details.read_details(memory=request.mem_block_size, probe=request.mem_hotplug_probe)
    return agent_pb2.GuestDetailsResponse(
        mem_block_size_bytes=found.memory_block_bytes,
        support_mem_hotplug_probe=found.has_memory_probe,
        agent_details=agent_pb2.AgentDetails(
            version=found.version,
            init_daemon=agent.supervised,
            storage_handlers=found.storage_handlers,
            supports_seccomp=found.supports_seccomp,
            extra_features=found.extra_features,
        ),
    )


def set_guest_date_time(_agent: Agent, request: agent_pb2.SetGuestDateTimeRequest) -> Empty:
    """Set the guest's clock, which a clone of a saved machine has wrong."""
    from kata_agent.guest import clock

    clock.set_time(request.Sec, request.Usec)
    return Empty()


def reseed_random_dev(_agent: Agent, request: agent_pb2.ReseedRandomDevRequest) -> Empty:
    """Give the kernel fresh entropy, without which clones would share their keys."""
    from kata_agent.guest import random

    random.reseed(request.data)
    return Empty()


async def online_cpu_mem(agent: Agent, request: agent_pb2.OnlineCPUMemRequest) -> Empty:
    """Bring processors and memory into use that the host has plugged. `wait` changes nothing, as in Kata's agent."""
    from kata_agent.devices import online

    system = online.System()
    if request.nb_cpus:

        async def wait(matcher: Matcher, timeout_s: float) -> object:
            return await agent.hotplug.wait(matcher, timeout_s)

        await online.online_cpus(system, request.nb_cpus, agent.worker, wait)
    if not request.cpu_only:
        await online.drive_memory(online.MEMORY, agent.load_module, agent.log)
        await agent.worker.run(partial(online.online_memory, system))
    return Empty()


async def mem_hotplug_by_probe(agent: Agent, request: agent_pb2.MemHotplugByProbeRequest) -> Empty:
    """Tell the kernel where memory has come."""
    from kata_agent.devices import online

    await agent.worker.run(partial(online.probe_memory, online.System(), tuple(request.memHotplugProbeAddr)))
    return Empty()


HANDLERS = {
    "OnlineCPUMem": online_cpu_mem,
    "MemHotplugByProbe": mem_hotplug_by_probe,
    "GetGuestDetails": get_guest_details,
    "SetGuestDateTime": set_guest_date_time,
    "ReseedRandomDev": reseed_random_dev,
}
