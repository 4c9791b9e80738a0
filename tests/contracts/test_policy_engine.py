"""The real engine: what it understands of Rego, what its errors say, and that no policy harms the asker."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from kata_policy.decision import ALLOWED, DENIED, ERROR, UNDEFINED, Decision
from kata_policy.document import input_json
from kata_policy.engine import BadPolicyError, Engine
from kata_policy.launch import launch
from kata_policy.policy import Policy
from kata_protocols.gen import agent_pb2, oci_pb2

pytestmark = pytest.mark.requires("policy-engine")

DEADLINE_S = 60.0


def decide(text: str, *questions: tuple[str, Any]) -> list[Decision]:
    """The answers of one policy to (rule, input) one after the other."""

    async def run() -> list[Decision]:
        policy = Policy(f"package agent_policy\n{text}", lambda: Engine(launch))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await policy.load()
                return [await policy.decide(rule, partial(json.dumps, given)) for rule, given in questions]
        finally:
            await policy.close()

    return asyncio.run(run())


def kinds(text: str, *questions: tuple[str, Any]) -> list[str]:
    return [decision.kind for decision in decide(text, *questions)]


def test_true_false_undefined_and_other_values() -> None:
    text = "default A := true\ndefault B := false\nC { input.x == 1 }\nD := 7\nE := {x | x := 1}"
    asked = [("A", {}), ("B", {}), ("C", {"x": 1}), ("C", {"x": 2}), ("D", {}), ("E", {}), ("F", {})]
    assert kinds(text, *asked) == [ALLOWED, DENIED, ALLOWED, UNDEFINED, ERROR, ERROR, UNDEFINED]


def test_constants_are_found_and_nothing_else_is_taken_for_one() -> None:
    text = """package agent_policy
default Yes := true
default No := false
default Asks := false
Asks { input.x }
default Twice := true
Twice = false { input.x }
default Seven := 7
default Part.allowed := true
Rule := true
default f(_) := true
"""

    async def run() -> tuple[dict[str, bool], set[str]]:
        policy = Policy(text, lambda: Engine(launch))
        try:
            await policy.load()
            return policy.constants, set(policy.rules)
        finally:
            await policy.close()

    constants, rules = asyncio.run(run())
    assert constants == {"Yes": True, "No": False}
    assert {"Asks", "Twice", "Seven", "Rule"} <= rules


GENERATED = """
import future.keywords.every
import future.keywords.if
import future.keywords.in

default AllowRequestsFailingPolicy := false
default CreateContainerRequest := false

policy_data := {
  "containers": [
    {"args": ["/pause"], "env": ["PATH=/bin"], "mounts": [{"destination": "/proc"}], "caps": ["CAP_CHOWN"]},
    {"args": ["sh", "-c", "x"], "env": ["PATH=/bin", "HOST=^[a-z-]+$"], "mounts": [], "caps": []},
  ],
}

CreateContainerRequest := {"ops": ops, "allowed": true} {
  print("CreateContainerRequest: id =", input.container_id)
  is_null(input.string_user)
  some i, c in policy_data.containers
  print("trying container", i)
  input.OCI.Process.Args == c.args
  allow_env(c)
  allow_mounts(c)
  every cap in input.OCI.Process.Capabilities.Bounding { cap in c.caps }
  ops := concat_op(i)
}

concat_op(i) := ops if {
  not data.pstate.containers
  ops := [{"op": "add", "path": "/pstate/containers", "value": {input.container_id: i}}]
}
concat_op(i) := ops if {
  data.pstate.containers
  not data.pstate.containers[input.container_id]
  ops := [{"op": "add", "path": concat("/", ["/pstate/containers", input.container_id]), "value": i}]
}

allow_env(c) {
  every text in input.OCI.Process.Env { allow_one(c, text) }
}
allow_one(c, text) { text in c.env }
allow_one(c, text) {
  parts := split(text, "=")
  count(parts) == 2
  some wanted in c.env
  startswith(wanted, concat("", [parts[0], "="]))
  regex.match(split(wanted, "=")[1], parts[1])
}

allow_mounts(c) {
  wanted := {m.destination | some m in c.mounts}
  found := {m.destination | some m in input.OCI.Mounts; m.type_ != "bind"}
  count(found - wanted) == 0
  bits.and(bits.or(4, 1), bits.negate(0)) == 5
  array.concat([lower("A")], [replace("b-b", "-", "")]) == ["a", "bb"]
  to_number("12") == 12
  substring("abcdef", 1, 2) == "bc"
  object.keys({"k": 1}) == {"k"}
  contains("abc", "b")
}

default ReadStreamRequest := true
StartContainerRequest { data.pstate.containers[input.container_id] >= 0 }
"""


def create(container_id: str, *args: str, env: tuple[str, ...] = ("PATH=/bin",)) -> Any:
    capabilities = oci_pb2.LinuxCapabilities(Bounding=["CAP_CHOWN"] if args == ("/pause",) else [])
    spec = oci_pb2.Spec(
        Process=oci_pb2.Process(Args=args, Env=env, Capabilities=capabilities),
        Mounts=[oci_pb2.Mount(destination="/proc", type="proc")] if args == ("/pause",) else [],
    )
    return json.loads(input_json(agent_pb2.CreateContainerRequest(container_id=container_id, OCI=spec)))


def test_constructs_of_generated_policies_run_unchanged() -> None:
    made = decide(
        GENERATED,
        ("StartContainerRequest", {"container_id": "a"}),
        ("CreateContainerRequest", create("a", "/pause")),
        ("StartContainerRequest", {"container_id": "a"}),
        ("CreateContainerRequest", create("a", "/pause")),
        ("CreateContainerRequest", create("b", "sh", "-c", "x", env=("PATH=/bin", "HOST=web-1"))),
        ("CreateContainerRequest", create("b", "sh", "-c", "x", env=("PATH=/bin", "HOST=web"))),
        ("StartContainerRequest", {"container_id": "b"}),
        ("CreateContainerRequest", create("c", "bash")),
    )
    assert [decision.kind for decision in made] == [
        UNDEFINED, ALLOWED, ALLOWED, DENIED, DENIED, ALLOWED, ALLOWED, DENIED,
    ]  # fmt: skip
    assert "CreateContainerRequest: id = c" in made[-1].text
    assert made[-1].text.startswith("CreateContainerRequest is blocked by policy: ")
    assert "trying container 1" in made[-1].text


def test_wide_numbers_null_and_empty_are_kept_apart() -> None:
    text = """
A { input.n == 9223372036854775807; input.m == 18446744073709551615 }
B { is_null(input.a); input.b == []; input.c == {} }
"""
    wide = {"n": 2**63 - 1, "m": 2**64 - 1}
    near = {"n": 2**63 - 2, "m": 2**64 - 1}
    asked = [
        ("A", wide),
        ("A", near),
        ("B", {"a": None, "b": [], "c": {}}),
        ("B", {"a": [], "b": [], "c": {}}),
    ]
    assert kinds(text, *asked) == [ALLOWED, UNDEFINED, ALLOWED, UNDEFINED]


def test_failures_are_pardoned_when_the_policy_says_so_but_errors_are_not() -> None:
    text = "default AllowRequestsFailingPolicy := true\ndefault No := false\nSeven := 7"
    assert kinds(text, ("No", {}), ("Unknown", {}), ("Seven", {})) == [ALLOWED, ALLOWED, ERROR]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("X := {\n", "policy.rego:3"),
        ("default X := true\nY { z == 1 }", "policy.rego:3:5"),
        ("X { input.x == 1", "policy.rego:2"),
    ],
)
def test_an_error_of_the_text_has_line_and_column(text: str, place: str) -> None:
    with pytest.raises(BadPolicyError) as caught:
        decide(text)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["package other\nX := true", 'package agent_policy["a\\"b\\\\c"]\nX := true', "", "not rego at all"],
)
def test_text_that_is_no_policy_for_an_agent_is_refused(text: str) -> None:
    async def run() -> None:
        policy = Policy(text, lambda: Engine(launch))
        try:
            await policy.load()
        finally:
            await policy.close()

    with pytest.raises(BadPolicyError):
        asyncio.run(run())


LOOP = """
import future.keywords.in
default Free := true
Ok { input.ok }
Loops { some i in n; some j in n; some k in n; some l in n; i + j + k + l < 0 }
n := numbers.range(0, 400)
Hoards { count(numbers.range(1, 900000000)) > 0 }
Wide { count(sprintf("%900000000d", [1])) > 0 }
Talks { n[i]; n[j]; print("0123456789012345678901234567890123456789", i, j, n); i < 0 }
"""


@pytest.mark.parametrize("rule", ["Loops", "Hoards", "Wide", "Talks"])
def test_a_rule_without_end_is_bounded_and_the_next_question_is_answered(rule: str) -> None:
    first, second = decide(LOOP, (rule, {}), ("Ok", {"ok": True}))
    assert first.kind == ERROR, first
    assert second.kind == ALLOWED


def test_endless_recursion_is_an_error_and_not_our_end() -> None:
    """Rego forbids it; this engine does not look for it and overflows its stack."""
    recursion = "f(x) := y { y := f(x) }\nX { f(input.x) }\ndefault Free := true"
    (decision,) = decide(recursion, ("X", {"x": 1}))
    assert decision.kind == ERROR
