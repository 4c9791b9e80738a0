"""The gate as an agent has it: its child processes, its place for what outlives it, its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.policy import DIRECTORY
from kata_agent.policy.engine_process import EngineProcess
from kata_agent.policy.gate import Gate
from kata_agent.policy.store import Store

if TYPE_CHECKING:
    import socket

    from kata_agent.agent import Agent


def make_gate(agent: Agent) -> Gate:
    """A gate without a policy. What an agent without a PID 1 of ours is told ends with it."""

    def launch(argv: list[str], channel: socket.socket) -> EngineProcess:
        return EngineProcess(agent.exits, argv, channel)

    store = Store(DIRECTORY) if agent.supervised else None
    return Gate(agent.log, launch, store=store, audit=agent.config.policy_audit)
