"""`Sandbox/Upgrade`: have another agent's code looked at, and hand over to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from kata_agent.agent import Agent


async def upgrade(agent: Agent, request: pb.UpgradeRequest) -> pb.UpgradeResponse:
    """Answered when the other code has said that it can take over; right after that this agent drains and ends."""
    upgrader = agent.upgrader
    checked = await upgrader.check(request.path)
    if not request.check_only:
        upgrader.hand_over(checked, request.drain_ms, request.ready_ms)
        agent.stopping.set()
    return pb.UpgradeResponse(code=checked.code, version=checked.version, life=agent.life.number)


HANDLERS = {"Upgrade": upgrade}
