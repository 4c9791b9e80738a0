"""Handlers of the policy: `SetPolicy`, and the journal of decisions in our own service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import NotFound
from kata_policy.extension import find_extension
from kata_protocols.gen import agent_pb2
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_agent.agent import Agent
    from kata_agent.policy.journal import Entry


async def set_policy(
    agent: Agent, request: agent_pb2.SetPolicyRequest, find_engine: Callable[[], str | None] = find_extension
) -> Empty:
    """Put a policy in force, if the one there is allows it. Without an engine it is a call that this agent lacks."""
    if agent.gate is None and find_engine() is None:
        raise NotFound("/grpc.AgentService/SetPolicy is not supported")
    if agent.gate is None:
        from kata_agent.policy.opening import make_gate

        agent.gate = make_gate(agent)  # until the policy is read, everything passes it
    await agent.gate.replace(request)
    return Empty()


def policy_log(agent: Agent, request: pb.PolicyLogRequest) -> pb.PolicyLogResponse:
    """What is in force and what it decided."""
    gate = agent.gate
    if gate is None or gate.policy is None:
        return pb.PolicyLogResponse()
    from kata_agent.policy.store import digest

    policy = gate.policy
    return pb.PolicyLogResponse(
        source=gate.source,
        sha256=digest(policy.text),
        audit=gate.audit,
        allow_failures=policy.allow_failures,
        allowed=gate.journal.allowed,
        refused=gate.journal.refused,
        decisions=[_encode(entry) for entry in gate.journal.entries(request.after)],
    )


def _encode(entry: Entry) -> pb.PolicyDecision:
    decision = entry.decision
    return pb.PolicyDecision(
        sequence=entry.sequence,
        time_ns=entry.time_ns,
        method=entry.method,
        rule=decision.rule,
        container_id=entry.container_id,
        outcome=decision.kind,
        enforced=entry.enforced,
        why=decision.why,
        prints=decision.prints,
        duration_us=entry.duration_us,
    )


HANDLERS = {"SetPolicy": set_policy, "PolicyLog": policy_log}
