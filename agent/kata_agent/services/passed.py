"""`Sandbox/NameStream`: the port of a connection whose host does not know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest, NotSupported
from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from kata_agent.agent import Agent

TOKEN_BYTES = range(16, 65)


async def name_stream(agent: Agent, request: pb.NameStreamRequest) -> pb.NameStreamResponse:
    """The connection that begins with this token; its port names it in CreateContainer and ExecProcess."""
    if len(request.token) not in TOKEN_BYTES:
        raise InvalidRequest(
            f"token of {len(request.token)} bytes: 16 to 64 that nobody can guess are needed"
        )
    if agent.passed is None:
        raise NotSupported("this guest does not listen for streams, start it with agent.passfd_listener_port")
    return pb.NameStreamResponse(port=await agent.passed.find_port(request.token))


HANDLERS = {"NameStream": name_stream}
