"""A policy in force: answers in order, state all or nothing, and every failure an answer that allows nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kata_policy.decision import ALLOWED, DENIED, ERROR, Decision
from kata_policy.engine import BadPolicyError, EngineError, Loaded
from kata_policy.policy import WAITING_LIMIT, Policy

Answer = Callable[[dict[str, Any], str, str], Awaitable[Any]]


class FakeEngine:
    """Answers by a function of data, rule and input; counts itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.data: dict[str, Any] = {}
        self.stopped = False

    async def load(self, text: str) -> Loaded:
        if text == "broken":
            raise BadPolicyError("policy.rego:3:9: expecting expression")
        return Loaded(self.world.rules)

    async def set_data(self, data: dict[str, Any]) -> None:
        self.data = data

    async def evaluate(self, query: str, request: str) -> dict[str, Any]:
        rule = query.removeprefix("data.agent_policy.")
        if rule == "AllowRequestsFailingPolicy":
            return {"values": [True] if self.world.allow_failures else [], "error": None, "prints": []}
        self.world.asked.append(request)
        return {"values": [await self.world.answer(self.data, rule, request)], "error": None, "prints": []}

    async def stop(self) -> str:
        self.stopped = True
        return "signal 9"


class World:
    """What a test decides about the engines, and what it sees of them."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or self.count
        self.rules: dict[str, bool | None] = {"Yes": True, "No": False, "Asks": None}
        self.allow_failures = False
        self.engines: list[FakeEngine] = []
        self.asked: list[str] = []
        self.kept: list[str] = []
        self.refuse_start = False
        self.refuse_keep = False

    def start(self) -> FakeEngine:
        if self.refuse_start:
            raise EngineError("kata_policy_engine is not installed")
        self.engines.append(FakeEngine(self))
        return self.engines[-1]

    def keep(self, state: str) -> None:
        if self.refuse_keep:
            raise OSError(28, "No space left on device")
        self.kept.append(state)

    def policy(self, text: str = "package agent_policy") -> Policy:
        return Policy(text, self.start, keep=self.keep)

    @staticmethod
    async def count(data: dict[str, Any], rule: str, request: str) -> Any:
        seen = data["pstate"].get("seen", [])
        await asyncio.sleep(0)
        return {"allowed": True, "ops": [{"op": "add", "path": "/pstate/seen", "value": [*seen, request]}]}


async def ask(policy: Policy, *requests: str, rule: str = "Asks") -> list[Decision]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(policy.decide(rule, lambda text=text: text)) for text in requests]
    return [task.result() for task in tasks]


def test_answers_change_the_state_in_the_order_of_the_questions() -> None:
    world = World()
    policy = world.policy()
    requests = [str(number) for number in range(20)]
    decisions = asyncio.run(ask(policy, *requests))
    assert {decision.kind for decision in decisions} == {ALLOWED}
    assert policy.state == {"pstate": {"seen": requests}}
    assert json.loads(world.kept[-1]) == policy.state
    assert len(world.engines) == 1


def test_constants_need_no_engine_once_it_is_loaded() -> None:
    world = World()

    async def run() -> list[Decision | None]:
        policy = world.policy()
        before = policy.settled("Yes")
        await policy.load()
        return [
            before,
            policy.settled("Yes"),
            policy.settled("No"),
            policy.settled("Asks"),
            policy.settled("X"),
        ]

    before, yes, no, asks, unknown = asyncio.run(run())
    assert (before, asks, unknown) == (None, None, None)
    assert yes == Decision("Yes", ALLOWED)
    assert no == Decision("No", DENIED)
    assert world.asked == []


def test_a_constant_refusal_is_no_answer_when_failures_are_allowed() -> None:
    world = World()
    world.allow_failures = True

    async def run() -> Decision | None:
        policy = world.policy()
        await policy.load()
        return policy.settled("No")

    assert asyncio.run(run()) is None


def test_an_engine_that_ends_is_an_error_and_the_next_question_gets_a_new_one_with_the_same_state() -> None:
    async def die_once(data: dict[str, Any], rule: str, request: str) -> Any:
        if request == "die":
            raise EngineError("ended while it was asked (signal 11)")
        return await World.count(data, rule, request)

    world = World(die_once)
    policy = world.policy()

    async def run() -> list[Decision]:
        return [*await ask(policy, "a"), *await ask(policy, "die"), *await ask(policy, "b")]

    first, second, third = asyncio.run(run())
    assert (first.kind, second.kind, third.kind) == (ALLOWED, ERROR, ALLOWED)
    assert "signal 11" in second.text
    assert policy.state == {"pstate": {"seen": ["a", "b"]}}
    assert [engine.stopped for engine in world.engines] == [True, False]


@pytest.mark.parametrize("text", ["broken", "x" * (4 << 20)])
def test_a_policy_that_cannot_be_read_allows_nothing(text: str) -> None:
    world = World()
    policy = world.policy(text)
    with pytest.raises(BadPolicyError):
        asyncio.run(policy.load())
    (decision,) = asyncio.run(ask(policy, "a"))
    assert decision.kind == ERROR
    assert all(engine.stopped for engine in world.engines)


def test_an_engine_that_cannot_start_allows_nothing() -> None:
    world = World()
    world.refuse_start = True
    (decision,) = asyncio.run(ask(world.policy(), "a"))
    assert decision.kind == ERROR
    assert "not installed" in decision.text


def test_state_that_cannot_be_stored_is_not_changed_and_the_request_not_allowed() -> None:
    world = World()
    policy = world.policy()

    async def run() -> list[Decision]:
        world.refuse_keep = True
        refused = await ask(policy, "a")
        world.refuse_keep = False
        return [*refused, *await ask(policy, "b")]

    refused, allowed = asyncio.run(run())
    assert (refused.kind, allowed.kind) == (ERROR, ALLOWED)
    assert policy.state == {"pstate": {"seen": ["b"]}}


def test_ops_that_cannot_be_applied_are_an_error_and_change_nothing() -> None:
    async def bad(data: dict[str, Any], rule: str, request: str) -> Any:
        return {
            "allowed": True,
            "ops": [{"op": "add", "path": "/pstate/x", "value": 1}, {"op": "remove", "path": "/y"}],
        }

    world = World(bad)
    policy = world.policy()
    (decision,) = asyncio.run(ask(policy, "a"))
    assert decision.kind == ERROR
    assert "operation 1 remove /y" in decision.text
    assert policy.state == {"pstate": {}}
    assert world.kept == []


def test_state_may_not_grow_without_end() -> None:
    async def grow(data: dict[str, Any], rule: str, request: str) -> Any:
        return {"allowed": True, "ops": [{"op": "add", "path": "/pstate/x", "value": "x" * (2 << 20)}]}

    (decision,) = asyncio.run(ask(World(grow).policy(), "a"))
    assert decision.kind == ERROR
    assert "bytes of state" in decision.text


def test_a_cancelled_question_leaves_no_half_answer_for_the_next() -> None:
    async def hang(data: dict[str, Any], rule: str, request: str) -> Any:
        if request == "hang":
            reached.set()
            await asyncio.Event().wait()
        return True

    world = World(hang)

    async def run() -> Decision:
        policy = world.policy()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(policy.decide("Asks", lambda: "hang"))
            await reached.wait()
            task.cancel()
        assert task.cancelled()
        return await policy.decide("Asks", lambda: "a")

    reached = asyncio.Event()
    assert asyncio.run(run()).kind == ALLOWED
    assert world.engines[0].stopped
    assert len(world.engines) == 2


def test_too_many_waiting_questions_are_refused_at_once() -> None:
    release = asyncio.Event()

    async def wait(data: dict[str, Any], rule: str, request: str) -> Any:
        await release.wait()
        return True

    async def run() -> tuple[Decision, list[Decision]]:
        policy = World(wait).policy()
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(policy.decide("Asks", lambda: "a")) for _ in range(WAITING_LIMIT)]
            await asyncio.sleep(0)
            one_more = await policy.decide("Asks", lambda: "b")
            release.set()
        return one_more, [task.result() for task in waiting]

    refused, answered = asyncio.run(run())
    assert refused.kind == ERROR
    assert {decision.kind for decision in answered} == {ALLOWED}
