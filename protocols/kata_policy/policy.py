"""One policy in force: its text, its state, its engine, and an answer for each request.

Owns: the order of questions (one after the other, in the order they were asked), the state that answers change, and
the engine's life: started with the first question that needs it, started again after it has ended. Every failure is an
answer that allows nothing. Must not know: the wire, files, the log. Follows: Kata's agent 3.21, "Policy".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

from kata_policy.decision import ALLOWED, DENIED, ERROR, Decision, judge
from kata_policy.engine import BadPolicyError, EngineError, Loaded
from kata_policy.patch import PatchError, apply_patch
from kata_policy.rules import ALLOW_FAILURES, QUERY

TEXT_LIMIT_BYTES = 3 << 20  # what fits into a request, with room
STATE_LIMIT_BYTES = 1 << 20
WAITING_LIMIT = 1024

State = dict[str, Any]
Keeper = Callable[[str], None]


def fresh_state() -> State:
    """The data document that a policy starts with."""
    return {"pstate": {}}


class Engine(Protocol):
    """What is asked; see `kata_policy.engine.Engine`."""

    async def load(self, text: str) -> Loaded:
        """Read a policy."""

    async def set_data(self, data: State) -> None:
        """Put a data document in place."""

    async def evaluate(self, query: str, request: str) -> dict[str, Any]:
        """Answer a query."""

    async def stop(self) -> str:
        """End."""


def _keep_nothing(state: str) -> None:
    del state


class Policy:
    """`start()` starts an engine without a policy; it raises `EngineError`, OSError.

    `keep(state)` stores the state, JSON text, before the answer that changed it is given; it raises OSError.
    """

    def __init__(
        self,
        text: str,
        start: Callable[[], Engine],
        *,
        state: State | None = None,
        keep: Keeper = _keep_nothing,
    ) -> None:
        self.text = text
        self.state = state if state is not None else fresh_state()
        self.keep = keep
        self.constants: dict[str, bool] = {}
        self.rules: tuple[str, ...] = ()
        self.allow_failures = False
        self._start = start
        self._engine: Engine | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def load(self) -> None:
        """Start the engine on the text. Raises `BadPolicyError`, `EngineError`, `OSError`."""
        async with self._turn:
            await self._ready()

    def settled(self, rule: str) -> Decision | None:
        """The answer to a rule that is a constant of the policy: it needs no engine and nobody's turn."""
        value = self.constants.get(rule)
        if value is None or (not value and self.allow_failures):
            return None
        return Decision(rule, ALLOWED if value else DENIED)

    async def decide(self, rule: str, make_input: Callable[[], str]) -> Decision:
        """The answer to a request. A cancelled question ends the engine, whose answer nobody would read."""
        if self._waiting >= WAITING_LIMIT:
            return Decision(rule, ERROR, f"{self._waiting} requests wait for the policy already")
        self._waiting += 1
        try:
            async with self._turn:
                try:
                    return await self._decide(rule, make_input())
                except (BadPolicyError, EngineError, OSError) as error:
                    await self._drop()
                    return Decision(rule, ERROR, f"policy engine: {error}")
                except BaseException:
                    await self._drop()
                    raise
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the engine."""
        async with self._turn:
            await self._drop()

    async def _decide(self, rule: str, request: str) -> Decision:
        engine = await self._ready()
        outcome = await engine.evaluate(QUERY + rule, request)
        decision = judge(rule, outcome, allow_failures=self.allow_failures)
        if not decision.ops:
            return decision
        try:
            state = apply_patch(self.state, decision.ops)
        except PatchError as error:
            return Decision(rule, ERROR, f"the rule's `ops`: {error}", decision.prints)
        text = json.dumps(state)
        if not isinstance(state, dict) or len(text) > STATE_LIMIT_BYTES:
            why = f"the rule's `ops` leave {len(text)} bytes of state; {STATE_LIMIT_BYTES} in an object are kept"
            return Decision(rule, ERROR, why, decision.prints)
        # In this order: when a step fails the engine is dropped, and the next one starts with the state before.
        await engine.set_data(state)
        self.keep(text)
        self.state = state
        return decision

    async def _ready(self) -> Engine:
        """The engine with the policy and its state in it."""
        if self._engine is not None:
            return self._engine
        if len(self.text.encode()) > TEXT_LIMIT_BYTES:
            raise BadPolicyError(f"{len(self.text.encode())} bytes are too many, {TEXT_LIMIT_BYTES} are read")
        engine = self._start()
        try:
            await self._fill(engine)
        except BaseException:
            await engine.stop()
            raise
        self._engine = engine
        return engine

    async def _fill(self, engine: Engine) -> None:
        loaded = await engine.load(self.text)
        await engine.set_data(self.state)
        # Its own old value has no part in this: Kata's agent never forgets a value that was true once.
        outcome = await engine.evaluate(QUERY + ALLOW_FAILURES, "{}")
        if outcome["error"] is not None:
            raise BadPolicyError(str(outcome["error"]).strip())
        self.allow_failures = outcome["values"] == [True]
        self.rules = tuple(loaded.rules)
        self.constants = {name: value for name, value in loaded.rules.items() if value is not None}

    async def _drop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()
