"""Handler of out-of-memory events. Hosts wait in it for the life of the sandbox, so it needs no containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_protocols.gen import agent_pb2

if TYPE_CHECKING:
    from kata_agent.agent import Agent


async def get_oom_event(agent: Agent, _request: agent_pb2.GetOOMEventRequest) -> agent_pb2.OOMEvent:
    """Wait for a container of which the kernel killed processes; INTERNAL `""` when the sandbox has gone."""
    return agent_pb2.OOMEvent(container_id=await agent.oom.fetch())


HANDLERS = {"GetOOMEvent": get_oom_event}
