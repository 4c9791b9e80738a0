"""What an engine's answer means for a call: the table of results, and the texts that hosts read."""

from __future__ import annotations

from typing import Any

import pytest

from kata_policy.decision import ALLOWED, DENIED, ERROR, PRINTS_LIMIT, UNDEFINED, judge
from kata_policy.rules import is_gated, is_ours
from kata_protocols import services


def outcome(*values: Any, error: str | None = None, prints: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"values": list(values), "error": error, "prints": list(prints)}


@pytest.mark.parametrize(
    ("answer", "kind", "pardoned"),
    [
        (outcome(True), ALLOWED, ALLOWED),
        (outcome(False), DENIED, ALLOWED),
        (outcome(), UNDEFINED, ALLOWED),
        (outcome({"allowed": True}), ALLOWED, ALLOWED),
        (outcome({"allowed": True, "ops": None}), ALLOWED, ALLOWED),
        (outcome({"allowed": False, "ops": []}), DENIED, ALLOWED),
        (outcome({"ops": []}), ERROR, ERROR),
        (outcome({"allowed": 1}), ERROR, ERROR),
        (outcome({"allowed": True, "ops": {}}), ERROR, ERROR),
        (outcome(1), ERROR, ERROR),
        (outcome("true"), ERROR, ERROR),
        (outcome(None), ERROR, ERROR),
        (outcome([True]), ERROR, ERROR),
        (outcome(True, True), ERROR, ERROR),
        (outcome(True, error="time is up"), ERROR, ERROR),
    ],
)
def test_each_result_has_one_outcome_and_errors_are_never_pardoned(
    answer: dict[str, Any], kind: str, pardoned: str
) -> None:
    assert judge("AnyRequest", answer, allow_failures=False).kind == kind
    assert judge("AnyRequest", answer, allow_failures=True).kind == pardoned


def test_a_denied_request_changes_no_state() -> None:
    ops = [{"op": "add", "path": "/pstate/x", "value": 1}]
    assert judge("R", outcome({"allowed": False, "ops": ops}), allow_failures=False).ops == ()
    assert judge("R", outcome({"allowed": False, "ops": ops}), allow_failures=True).ops == ()
    assert judge("R", outcome({"allowed": True, "ops": ops}), allow_failures=False).ops == tuple(ops)


def test_texts_name_the_rule_and_what_it_printed() -> None:
    denied = judge("ExecProcessRequest", outcome(False, prints=("one", "two")), allow_failures=False)
    assert denied.text == "ExecProcessRequest is blocked by policy: one two"
    undefined = judge("AddSwapPathRequest", outcome(), allow_failures=False)
    assert undefined.text.startswith(
        "AddSwapPathRequest: internal error: the policy does not define this rule"
    )


def test_prints_are_cut_at_their_beginning() -> None:
    prints = judge("R", outcome(False, prints=("a" * 9000, "the reason")), allow_failures=False).prints
    assert len(prints) == PRINTS_LIMIT + 4
    assert prints.endswith("the reason")


def test_calls_that_ask_nobody_are_those_of_the_reference() -> None:
    asked = {
        (service.name, method)
        for service in (services.HEALTH_SERVICE, services.AGENT_SERVICE, services.SANDBOX_SERVICE)
        for method in service.methods
        if not is_gated(service.name, method)
    }
    assert asked == {
        ("grpc.Health", "Check"),
        ("grpc.Health", "Version"),
        ("grpc.AgentService", "MemAgentMemcgSet"),
        ("grpc.AgentService", "MemAgentCompactSet"),
    }


def test_what_kata_does_not_have_is_ours() -> None:
    assert is_ours("kata.agent.v1.Sandbox", "Why")
    assert is_ours("grpc.AgentService", "ResizeVolume")
    assert not is_ours("grpc.AgentService", "AddSwapPath")
