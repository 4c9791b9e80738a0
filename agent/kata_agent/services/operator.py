"""`Sandbox/LogLevel` and `LastCalls`: for who operates guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.log_record import ORDER

if TYPE_CHECKING:
    from kata_agent.agent import Agent


def log_level(agent: Agent, request: pb.LogLevelRequest) -> pb.LogLevelResponse:
    """Tell the level, and change it when one is given. Raises `InvalidRequest`."""
    before = agent.log.level
    if request.level and request.level not in ORDER:
        raise InvalidRequest(f"log level {request.level[:40]!r}: not one of {', '.join(ORDER)}")
    if request.level and request.level != before:
        # At the severer of the two levels: whoever reads at either must see it.
        severity = max(before, request.level, key=ORDER.index)
        agent.log.write(severity, "root", "log level changed", before=before, now=request.level)
        agent.log.set_level(request.level)
    port = agent.operators.log_port if agent.operators is not None else None
    return pb.LogLevelResponse(
        level=agent.log.level, before=before, dropped=port.dropped if port is not None else 0
    )


def last_calls(agent: Agent, _request: pb.LastCallsRequest) -> pb.LastCallsResponse:
    """What the flight recorder holds, of this agent and of those before it."""
    flight = agent.flight
    calls = [
        pb.RecordedCall(
            number=call.number,
            time_ns=call.time_ns,
            life=call.life,
            method=call.method,
            container_id=call.container_id,
            finished=call.finished,
            code=call.code,
            duration_us=call.duration_us,
        )
        for call in flight.read()
    ]
    return pb.LastCallsResponse(
        calls=calls, life=agent.life.number, last_end=agent.life.last_end, crash=flight.last_crash
    )


HANDLERS = {"LogLevel": log_level, "LastCalls": last_calls}
