"""Policies off line: what a policy says to requests that are only written down, with the agent's own engine.

Knows no machine and no connection. Needs the engine's extension, which a build of the guest image installs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from google.protobuf.message import Message

from kata_host.message_json import JsonMismatch, fill_message
from kata_policy.decision import Decision
from kata_policy.document import input_json
from kata_policy.engine import Engine
from kata_policy.launch import launch
from kata_policy.policy import Policy
from kata_policy.rules import is_gated
from kata_protocols import services


def request_types() -> dict[str, type[Message]]:
    """The messages that a policy is asked about, by the rule's name; and by the method's, where it is another."""
    found: dict[str, type[Message]] = {}
    for service in (services.SANDBOX_SERVICE, services.AGENT_SERVICE):
        for method in service.methods.values():
            if is_gated(service.name, method.name):
                found[method.name] = found[method.request_type.DESCRIPTOR.name] = method.request_type
    return found


def read_requests(document: object) -> Iterator[Message]:
    """Requests as JSON: `{"CreateContainerRequest": {...}}` or a list of such. Raises `JsonMismatch`."""
    types = request_types()
    for entry in document if isinstance(document, list) else [document]:
        if not isinstance(entry, dict) or not entry:
            raise JsonMismatch(
                f'{json.dumps(entry)[:60]}: want an object such as {{"ExecProcessRequest": {{}}}}'
            )
        for name, value in entry.items():
            kind = types.get(name)
            if kind is None:
                raise JsonMismatch(f"{name}: no request or call has this name")
            message = kind()
            fill_message(message, value)
            yield message


@asynccontextmanager
async def open_policy(text: str, state: dict[str, Any] | None = None) -> AsyncIterator[Policy]:
    """A policy that has been read. Raises `BadPolicyError`, `EngineError`."""
    policy = Policy(text, lambda: Engine(launch), state={"pstate": state} if state is not None else None)
    try:
        await policy.load()
        yield policy
    finally:
        await policy.close()


async def check(policy: Policy, requests: Sequence[Message]) -> list[Decision]:
    """Its answers, one after the other: what one changes in the state, the next one sees."""
    decisions = []
    for request in requests:
        rule = request.DESCRIPTOR.name
        settled = policy.settled(rule)
        decisions.append(settled or await policy.decide(rule, partial(input_json, request)))
    return decisions


def undefined_rules(policy: Policy) -> list[str]:
    """Requests of Kata's agent that the policy has no rule for: each of them is refused."""
    asked = {
        method.request_type.DESCRIPTOR.name
        for method in services.AGENT_SERVICE.methods.values()
        if is_gated(services.AGENT_SERVICE.name, method.name)
    }
    return sorted(asked - set(policy.rules))
