"""The allow-list of endpoints: which method a name stands for, and the refusal of what is not on the list.

Imported where there is a list. Must not know: where the list comes from. Follows: earlier releases of Kata's
agent, which named endpoints by their request's message and answered `CopyFileRequest is blocked`; later ones
leave it to policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.errors import Denied

if TYPE_CHECKING:
    from kata_agent.config.value import AllowList

HEALTH = "grpc.Health"
"""Always allowed: it tells no more than that somebody is there."""


def is_allowed(allowed: AllowList, service: str, method: str, message: str) -> bool:
    """Whether the list has this method, by its bare or whole name or by its request's message."""
    return service == HEALTH or not allowed.names.isdisjoint({method, message, f"{service}/{method}"})


def refuse(allowed: AllowList, message: str) -> Any:
    """A handler that refuses."""
    text = f"{message} is blocked" + (f": {allowed.reason}" if allowed.reason else "")

    def blocked(_agent: Any, _request: Any) -> None:
        raise Denied(text)

    return blocked


def find_unknown(allowed: AllowList) -> list[str]:
    """The names on the list that stand for nothing: most likely a typing error, which blocks what was meant."""
    from kata_protocols import services

    known = set()
    for service in (services.AGENT_SERVICE, services.HEALTH_SERVICE, services.SANDBOX_SERVICE):
        for method in service.methods.values():
            known |= {method.name, method.request_type.DESCRIPTOR.name, f"{service.name}/{method.name}"}
    return sorted(allowed.names - known)
