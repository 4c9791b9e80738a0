"""`grpc.Health`: is the agent there, and which one is it.

Hosts kill the guest after one missed Check, so these answer inside the connection's read callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.version import AGENT_VERSION, API_VERSION
from kata_protocols.gen import health_pb2

if TYPE_CHECKING:
    from kata_agent.agent import Agent

_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_VERSION = health_pb2.VersionCheckResponse(grpc_version=API_VERSION, agent_version=AGENT_VERSION)


def check(_agent: Agent, _request: health_pb2.CheckRequest) -> health_pb2.HealthCheckResponse:
    """Always serving; the service's name is ignored."""
    return _SERVING


def version(_agent: Agent, _request: health_pb2.CheckRequest) -> health_pb2.VersionCheckResponse:
    """Versions of the API and of the agent."""
    return _VERSION


HANDLERS = {"Check": check, "Version": version}
