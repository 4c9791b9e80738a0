"""Handlers of sessions: output that can be read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.processes.session import Session

MAX_WAIT_S = 600.0
NAMES: dict[int, str] = {pb.STDOUT: "stdout", pb.STDERR: "stderr"}
STREAMS = {"stdout": pb.STDOUT, "stderr": pb.STDERR}


def open_session(agent: Agent, request: pb.OpenSessionRequest) -> pb.Session:
    """Keep a process's output from now on; asking again for the same plan is fine. All streams, or none."""
    process = agent.containers.process_of(request.container_id, request.exec_id)
    plans = list(request.streams) or [
        pb.StreamPlan(stream=stream)
        for stream in ((pb.STDOUT,) if process.terminal else (pb.STDOUT, pb.STDERR))
    ]
    sessions = agent.containers.sessions
    before = sessions.of(request.container_id, request.exec_id)
    try:
        for plan in plans:
            sessions.open(
                request.container_id,
                request.exec_id,
                _name(plan.stream),
                plan.ring_bytes,
                drop_oldest=plan.when_full == pb.DROP_OLDEST,
            )
    except Exception:
        if not before:
            sessions.close(request.container_id, request.exec_id)
        raise
    return _describe(agent, request.container_id, request.exec_id)


async def read_session(agent: Agent, request: pb.ReadSessionRequest) -> pb.ReadSessionResponse:
    """Bytes from an offset on, or from the oldest kept, with the gap told."""
    session = agent.containers.sessions.find(request.container_id, request.exec_id, _name(request.stream))
    wait_s = min(request.wait_ms / 1000, MAX_WAIT_S)
    piece = await session.read_at(request.offset, request.limit, wait_s, request.release)
    answer = pb.ReadSessionResponse(offset=piece.offset, data=piece.data, end=piece.end, ended=piece.ended)
    if piece.offset > request.offset:
        answer.gap.CopyFrom(pb.ByteGap(first=request.offset, end=piece.offset))
    return answer


def list_sessions(agent: Agent, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
    """Every session, or those of a container."""
    found = {
        (container_id, exec_id): None
        for container_id, exec_id, _ in agent.containers.sessions.all()
        if request.container_id in ("", container_id)
    }
    return pb.ListSessionsResponse(sessions=[_describe(agent, *names) for names in found])


def close_session(agent: Agent, request: pb.CloseSessionRequest) -> pb.CloseSessionResponse:
    """Forget what is kept; what comes from now on is read by calls again."""
    agent.containers.sessions.close(request.container_id, request.exec_id)
    return pb.CloseSessionResponse()


def _name(stream: int) -> str:
    name = NAMES.get(stream)
    if name is None:
        raise InvalidRequest(f"stream {stream}: use STDOUT or STDERR")
    return name


def _describe(agent: Agent, container_id: str, exec_id: str) -> pb.Session:
    sessions = agent.containers.sessions.of(container_id, exec_id)
    return pb.Session(
        container_id=container_id,
        exec_id=exec_id,
        streams=[_describe_stream(stream, session) for stream, session in sessions.items()],
    )


def _describe_stream(stream: str, session: Session) -> pb.StreamState:
    return pb.StreamState(
        stream=STREAMS[stream],
        ring_bytes=session.size_bytes,
        when_full=pb.DROP_OLDEST if session.drop_oldest else pb.BLOCK,
        first=session.first,
        end=session.end,
        ended=session.ended,
    )


HANDLERS = {
    "OpenSession": open_session,
    "ReadSession": read_session,
    "ListSessions": list_sessions,
    "CloseSession": close_session,
}
