"""`Sandbox/Quiesce` and `Resumed`: before this machine is saved, and after a copy of it has come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.snapshot.repair import Wanted
from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata_agent.agent import Agent
    from kata_agent.snapshot.steps import Step


async def quiesce(agent: Agent, request: pb.QuiesceRequest) -> pb.QuiesceResponse:
    """Bring everything to a halt."""
    steps, containers = await agent.snapshot.quiesce(
        freeze_filesystems=request.freeze_filesystems,
        timeout_s=request.timeout_ms / 1000,
        warm=request.warm,
        disk=(request.disk, request.disk_fstype) if request.disk else None,
    )
    return pb.QuiesceResponse(steps=encode_steps(steps), containers=containers)


async def resumed(agent: Agent, request: pb.ResumedRequest) -> pb.ResumedResponse:
    """Repair what a copy has wrong and go on."""
    wanted = Wanted(request.random, request.time_ns, request.hostname, request.machine_id)
    steps, generation = await agent.snapshot.resumed(wanted)
    return pb.ResumedResponse(
        steps=encode_steps(steps), generation=pb.Generation(number=generation.number, id=generation.id)
    )


def encode_steps(steps: Iterable[Step]) -> list[pb.Step]:
    """The messages."""
    return [pb.Step(name=step.name, duration_us=step.duration_us, note=step.note) for step in steps]


HANDLERS = {"Quiesce": quiesce, "Resumed": resumed}
