"""`MemAgentMemcgSet` and `MemAgentCompactSet`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.errors import WrongState
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.memory.agent import MemoryAgent
    from kata_protocols.gen import agent_pb2


def set_memcg(agent: Agent, request: agent_pb2.MemAgentMemcgConfig) -> Empty:
    """Change what the memory agent may take back; fields that are not set stay."""
    _find(agent).set_memcg(_present(request))
    return Empty()


def set_compact(agent: Agent, request: agent_pb2.MemAgentCompactConfig) -> Empty:
    """Change when the memory agent compacts; fields that are not set stay."""
    _find(agent).set_compact(_present(request))
    return Empty()


def _find(agent: Agent) -> MemoryAgent:
    if agent.memory is None:
        raise WrongState("mem-agent is disabled")  # the text that hosts know
    return agent.memory


def _present(request: Any) -> dict[str, Any]:
    return {field.name: value for field, value in request.ListFields()}


HANDLERS = {"MemAgentMemcgSet": set_memcg, "MemAgentCompactSet": set_compact}
