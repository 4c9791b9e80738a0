"""`Sandbox/GetBoot`: the boot's time line, which life of the agent this is, and how late its event loop was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.version import PROJECT_VERSION
from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from kata_agent.agent import Agent


def read_generation() -> pb.Generation:
    """Which copy of a saved machine this is."""
    from kata_agent.parts import RUN_DIRECTORY
    from kata_agent.snapshot.repair import read_generation

    found = read_generation(RUN_DIRECTORY)
    return pb.Generation(number=found.number, id=found.id)


def get_boot(agent: Agent, _request: pb.GetBootRequest) -> pb.GetBootResponse:
    """What PID 1 has told, and what the heartbeat has found; stand-alone there is neither."""
    life = agent.life
    return pb.GetBootResponse(
        steps=[pb.BootStep(name=name, boottime_ns=stamp) for name, stamp in life.steps],
        life=life.number,
        last_end=life.last_end,
        loop_lag_us=life.lag_us,
        worst_lag_us=life.worst_lag_us,
        supervised=agent.supervised,
        code=life.code,
        version=PROJECT_VERSION,
        generation=read_generation(),
    )


HANDLERS = {"GetBoot": get_boot}
