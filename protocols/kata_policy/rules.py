"""Which rule a call asks. Pure.

Owns: the name of each request's rule, and the calls that ask none. Follows: Kata's agent 3.21, "Every RPC", index.
"""

from __future__ import annotations

PACKAGE = "agent_policy"
QUERY = f"data.{PACKAGE}."
ALLOW_FAILURES = "AllowRequestsFailingPolicy"

# Service -> methods that ask nobody; every method of a service that is not named here asks.
UNGATED = {
    "grpc.Health": frozenset({"Check", "Version"}),
    "grpc.AgentService": frozenset({"MemAgentMemcgSet", "MemAgentCompactSet"}),
}

# Asked after the read, and answered without data when they may not: a refusal at once would be asked again for ever.
READS = frozenset({"ReadStdout", "ReadStderr"})

# Kata's agent does not have these, so no policy written for it names them: undefined is a refusal, not an error.
OURS = frozenset({"ResizeVolume"})

# Asked so often that what was allowed is counted and not listed.
FREQUENT = frozenset({"ReadStreamRequest", "WriteStreamRequest", "StatsContainerRequest"})


def is_gated(service: str, method: str) -> bool:
    """Whether a call of this method asks the policy."""
    return method not in UNGATED.get(service, ())


def is_ours(service: str, method: str) -> bool:
    """Whether Kata's agent does not have this method."""
    return service != "grpc.AgentService" or method in OURS
