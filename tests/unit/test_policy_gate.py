"""The gate: nothing runs before it was allowed, and what a refused read took is neither shown nor half-read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from kata_agent.errors import AgentError, Denied, NotFound, wire_status
from kata_agent.log import Log
from kata_agent.policy.gate import Gate
from kata_agent.policy.journal import ALLOWED_KEPT, REFUSED_KEPT, Journal
from kata_agent.policy.store import Store
from kata_agent.services.policy import set_policy
from kata_policy.decision import ALLOWED, DENIED, ERROR, UNDEFINED, Decision
from kata_policy.policy import Policy
from kata_protocols.aio.reply import PipeReply
from kata_protocols.gen import agent_pb2, sandbox_pb2
from kata_protocols.status import Code
from kata_testing.wire import run_async

AGENT = "grpc.AgentService"
SANDBOX = "kata.agent.v1.Sandbox"


class FixedPolicy(Policy):
    """Says the same to every request, at once or after a turn of the loop."""

    def __init__(self, kind: str, *, settled: bool) -> None:
        super().__init__("", lambda: pytest.fail("no engine is needed"))
        self.kind = kind
        self.is_settled = settled

    def settled(self, rule: str) -> Decision | None:
        return Decision(rule, self.kind) if self.is_settled else None

    async def decide(self, rule: str, make_input: Any) -> Decision:
        make_input()
        await asyncio.sleep(0)
        return Decision(rule, self.kind, prints="said")


class Pipe(PipeReply):
    """Remembers what became of it."""

    def __init__(self) -> None:
        self.fate: list[str] = []

    def take(self) -> bytes:
        self.fate.append("taken")
        return b"secret"

    def finished(self, delivered: bool) -> None:
        self.fate.append("delivered" if delivered else "not delivered")


def make_gate(kind: str, *, settled: bool = False, audit: bool = False) -> Gate:
    gate = Gate(Log(), lambda argv, channel: pytest.fail("nothing is started"), store=None, audit=audit)
    gate.policy = FixedPolicy(kind, settled=settled)
    return gate


async def guard(gate: Gate, method: str, handler: Any, request: Any, service: str = AGENT) -> Any:
    """What the caller gets in the end."""
    result = gate.guard(service, method, handler, None, request, streaming=method == "Events")  # type: ignore[arg-type]
    if isinstance(result, AsyncGenerator):
        return [message async for message in result]
    return await result if asyncio.iscoroutine(result) else result


REFUSALS = [
    (DENIED, AGENT, Denied, "StatsContainerRequest is blocked by policy: "),
    (UNDEFINED, AGENT, AgentError, "StatsContainerRequest: internal error: "),
    (ERROR, AGENT, AgentError, "StatsContainerRequest: internal error: "),
    (UNDEFINED, SANDBOX, Denied, "StatsContainerRequest is blocked by policy: it does not name this rule"),
]


@pytest.mark.parametrize(("kind", "service", "error", "text"), REFUSALS)
@pytest.mark.parametrize("settled", [True, False])
def test_a_refused_call_never_reaches_its_handler(
    kind: str, service: str, error: type[Exception], text: str, settled: bool
) -> None:
    gate = make_gate(kind, settled=settled)
    request = agent_pb2.StatsContainerRequest(container_id="a")
    with pytest.raises(error) as caught:
        run_async(guard(gate, "StatsContainer", lambda *_: pytest.fail("called"), request, service))
    assert type(caught.value) is error
    assert str(caught.value).startswith(text)
    assert gate.journal.refused == {"StatsContainerRequest": 1}


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize(
    ("kind", "audit"), [(ALLOWED, False), (DENIED, True), (UNDEFINED, True), (ERROR, True)]
)
def test_an_allowed_call_and_any_call_under_audit_are_answered(kind: str, audit: bool, settled: bool) -> None:
    async def later(agent: Any, request: Any) -> str:
        return "later"

    async def stream(agent: Any, request: Any) -> AsyncGenerator[str, None]:
        yield "one"
        yield "two"

    gate = make_gate(kind, settled=settled, audit=audit)
    request = agent_pb2.StatsContainerRequest()
    assert run_async(guard(gate, "StatsContainer", lambda *_: "now", request)) == "now"
    assert run_async(guard(gate, "StatsContainer", later, request)) == "later"
    assert run_async(guard(gate, "Events", stream, sandbox_pb2.EventsRequest(), SANDBOX)) == ["one", "two"]


def test_a_refused_stream_gives_no_message() -> None:
    async def stream(agent: Any, request: Any) -> AsyncGenerator[str, None]:
        pytest.fail("called")
        yield ""

    with pytest.raises(Denied):
        run_async(guard(make_gate(DENIED), "Events", stream, sandbox_pb2.EventsRequest(), SANDBOX))


@pytest.mark.parametrize("kind", [DENIED, UNDEFINED, ERROR])
@pytest.mark.parametrize("settled", [True, False])
def test_a_refused_read_is_made_and_its_data_withheld(kind: str, settled: bool) -> None:
    gate, pipe = make_gate(kind, settled=settled), Pipe()
    request = agent_pb2.ReadStreamRequest()
    assert run_async(guard(gate, "ReadStdout", lambda *_: pipe, request)) == agent_pb2.ReadStreamResponse()
    assert pipe.fate == ["taken", "not delivered"]
    data = agent_pb2.ReadStreamResponse(data=b"secret")
    assert run_async(guard(gate, "ReadStderr", lambda *_: data, request)) == agent_pb2.ReadStreamResponse()


def test_an_allowed_read_is_passed_on_as_it_is() -> None:
    for settled in (True, False):
        pipe = Pipe()
        gate = make_gate(ALLOWED, settled=settled)
        assert run_async(guard(gate, "ReadStdout", lambda *_: pipe, agent_pb2.ReadStreamRequest())) is pipe  # noqa: B023
        assert pipe.fate == []


def test_a_read_that_nobody_waits_for_any_more_stays_in_its_stream() -> None:
    pipe = Pipe()

    class Stuck(FixedPolicy):
        async def decide(self, rule: str, make_input: Any) -> Decision:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    async def run() -> None:
        gate = make_gate(DENIED)
        gate.policy = Stuck(DENIED, settled=False)
        async with asyncio.TaskGroup() as group:
            work = guard(gate, "ReadStdout", lambda *_: pipe, agent_pb2.ReadStreamRequest())
            task = group.create_task(work)
            await asked.wait()
            task.cancel()

    asked = asyncio.Event()
    run_async(run())
    assert pipe.fate == ["not delivered"]


def test_calls_that_ask_nobody_pass_without_a_policy_and_with_one_that_denies_all() -> None:
    gate = make_gate(DENIED)
    config = agent_pb2.MemAgentMemcgConfig()
    assert run_async(guard(gate, "MemAgentMemcgSet", lambda *_: "done", config)) == "done"
    gate.policy = None
    assert (
        run_async(guard(gate, "StatsContainer", lambda *_: "done", agent_pb2.StatsContainerRequest()))
        == "done"
    )


def test_the_journal_keeps_the_newest_and_a_flood_of_allowed_calls_pushes_no_refusal_out() -> None:
    journal = Journal()

    def note(rule: str, kind: str, times: int = 1) -> None:
        for _ in range(times):
            decision = Decision(rule, kind)
            journal.note(decision, time_ns=0, method="M", container_id="", enforced=True, duration_us=1)

    note("ExecProcessRequest", DENIED)
    note("ReadStreamRequest", ALLOWED, 5000)
    note("StartContainerRequest", ALLOWED, 100)
    kept = journal.entries()
    assert len(kept) == 1 + ALLOWED_KEPT
    assert (kept[0].sequence, kept[0].decision.kind) == (1, DENIED)
    assert journal.allowed == {"ReadStreamRequest": 5000, "StartContainerRequest": 100}
    note("ReadStreamRequest", DENIED, 1000)
    refused = [entry for entry in journal.entries() if entry.decision.kind == DENIED]
    assert len(refused) == REFUSED_KEPT
    assert [entry.sequence for entry in journal.entries(after=refused[-2].sequence)] == [refused[-1].sequence]


def test_without_an_engine_there_is_no_set_policy_as_in_an_agent_that_was_built_without() -> None:
    class Bare:
        gate = None

    work = set_policy(Bare(), agent_pb2.SetPolicyRequest(), lambda: None)  # type: ignore[arg-type]
    with pytest.raises(NotFound) as caught:
        run_async(work)
    assert wire_status("SetPolicy", caught.value) == (
        Code.NOT_FOUND,
        "/grpc.AgentService/SetPolicy is not supported",
    )


def test_a_state_belongs_to_its_policy(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "policy"))
    assert (store.read_policy(), store.read_state("a")) == (None, None)
    store.write_policy("a", '{"pstate":{}}')
    store.write_state("a", '{"pstate":{"x":1}}')
    assert store.read_policy() == "a"
    assert Store(str(tmp_path / "policy")).read_state("a") == {"pstate": {"x": 1}}
    assert store.read_state("b") is None
    store.write_policy("b", '{"pstate":{}}')
    assert store.read_state("b") == {"pstate": {}}


def open_first(tmp_path: Path, *, kept: str | None = None, owners: str | None = None) -> Gate:
    """The gate of an agent that finds a default file and, if given, others."""
    store, file = Store(str(tmp_path / "policy")), tmp_path / "default.rego"
    file.write_text("default")
    if kept is not None:
        store.write_policy(kept, "{}")
    gate = Gate(Log(), lambda argv, channel: pytest.fail("nothing is started"), store=store, audit=False)
    gate.begin(str(file), owners)
    return gate


@pytest.mark.parametrize(
    ("given", "text", "source"),
    [
        ({}, "default", "default.rego"),
        ({"owners": "owner's"}, "owner's", "initdata"),
        ({"owners": "owner's", "kept": "set"}, "set", "an earlier SetPolicy"),
        ({"kept": "set"}, "set", "an earlier SetPolicy"),
    ],
)
def test_which_policy_comes_first(tmp_path: Path, given: dict[str, str], text: str, source: str) -> None:
    gate = open_first(tmp_path, **given)
    assert gate.policy is not None
    assert (gate.policy.text, gate.source.rpartition("/")[2]) == (text, source)


def test_a_state_that_cannot_be_read_locks_the_gate(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_policy("package agent_policy", "{}")
    (tmp_path / "state.json").write_text("{")
    gate = Gate(Log(), lambda argv, channel: pytest.fail("nothing is started"), store=store, audit=False)
    gate.adopt("package agent_policy", "an earlier SetPolicy")
    request = agent_pb2.StatsContainerRequest()
    with pytest.raises(AgentError, match="the state of the policy cannot be read"):
        run_async(guard(gate, "StatsContainer", lambda *_: pytest.fail("called"), request))
