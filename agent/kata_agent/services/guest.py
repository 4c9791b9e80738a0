"""Handlers about the guest as a whole: details, clock, random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_protocols.gen import agent_pb2
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent


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


HANDLERS = {
    "GetGuestDetails": get_guest_details,
    "SetGuestDateTime": set_guest_date_time,
    "ReseedRandomDev": reseed_random_dev,
}
