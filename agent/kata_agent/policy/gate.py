"""The gate before every handler: ask the policy, then let the call go on, refuse it or, for a read, withhold its data.

Owns: which policy is in force, who may replace it, what a refusal is on the wire, and the journal of decisions. The
dispatcher calls `guard` in place of a handler. Must not know: what a handler does. Follows: Kata's agent 3.21,
"Policy". See decision 0121.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from kata_agent.errors import AgentError, Denied, InvalidRequest, describe
from kata_agent.policy.journal import Journal
from kata_policy.decision import DENIED, UNDEFINED, Decision
from kata_policy.document import input_json
from kata_policy.engine import BadPolicyError, Engine, EngineError, Launcher
from kata_policy.policy import Policy
from kata_policy.rules import READS, is_gated, is_ours
from kata_protocols.aio.reply import PipeReply

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.log import Log
    from kata_agent.policy.store import Store

SET_POLICY = "SetPolicy"


class Gate:
    """One for the agent. Without a policy everything passes; `audit` lets everything pass and tells what would not."""

    def __init__(self, log: Log, launch: Launcher, *, store: Store | None, audit: bool) -> None:
        self.journal = Journal()
        self.policy: Policy | None = None
        self.source = ""
        self.audit = audit
        self._log = log
        self._launch = launch
        self.store = store
        self._replacing = asyncio.Lock()

    def adopt(self, text: str, source: str) -> None:
        """Put a policy in force that nobody has to allow: the default one, or the one of an agent before this.

        It is read with the first question; until it can be, nothing is allowed.
        """
        self.policy = self._make(text)
        self.source = source
        self._log.info("policy", "policy in force", source=source, audit=self.audit, bytes=len(text))
        if self.store is not None:
            try:
                self.policy.state = self.store.read_state(text) or self.policy.state
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.lock(f"the state of the policy cannot be read: {error}", source)

    def begin(self, file: str, owners: str | None) -> None:
        """Put the policy in force that comes first: one that was set before, the owner's of initdata, the file's.

        One that is kept or named and cannot be read allows nothing.
        """
        source = file if owners is None else "initdata"
        try:
            text = self.store.read_policy() if self.store else None
            if text is not None:
                source = "an earlier SetPolicy"
            elif owners is not None:
                text = owners
            else:
                with open(file, encoding="utf-8") as opened:
                    text = opened.read()
        except (OSError, ValueError) as error:
            self.lock(f"{source}: {describe(error)}", source)
            return
        self.adopt(text, source)

    def lock(self, reason: str, source: str) -> None:
        """Allow nothing: there is a policy, and it cannot be had."""

        def refuse() -> Engine:
            raise EngineError(reason)

        self.policy = Policy("", refuse)
        self.source = source
        self._log.error("policy", "nothing is allowed", reason=reason)

    def guard(
        self, service: str, method: str, handler: Any, agent: Agent, request: Any, *, streaming: bool
    ) -> Any:
        """What the handler returns, if the policy allows it. Raises `Denied`, or `AgentError` for a failing policy."""
        if self.policy is None or method == SET_POLICY or not is_gated(service, method):
            return handler(agent, request)
        call = _Call(service, method, request)
        settled = self.policy.settled(call.rule)
        if method in READS:
            if settled is not None and settled.allowed:
                self._note(call, settled)
                return handler(agent, request)
            return self._read(call, handler(agent, request))
        if settled is not None:
            self._admit(call, settled)
            return handler(agent, request)
        if streaming:
            return self._stream(call, handler, agent)
        return self._ask(call, handler, agent)

    async def replace(self, request: Any) -> None:
        """SetPolicy, one at a time: ask the policy in force, read the new one, and keep it. Raises `AgentError`."""
        async with self._replacing:
            if self.policy is not None:
                call = _Call("grpc.AgentService", SET_POLICY, request)
                self._admit(call, await self._decide(call))
            policy = self._make(request.policy)
            try:
                await policy.load()
            except BadPolicyError as error:
                raise InvalidRequest(f"the policy cannot be used: {error}") from None
            except EngineError as error:
                raise AgentError(f"policy engine: {error}") from None
            try:
                self._keep(policy)
            except OSError:
                await policy.close()
                raise
            old, self.policy = self.policy, policy
            self.source = SET_POLICY
            if old is not None:
                await old.close()
        self._log.info("policy", "policy set", rules=len(policy.rules), audit=self.audit)

    async def close(self) -> None:
        """End the engine."""
        if self.policy is not None:
            await self.policy.close()

    def _make(self, text: str) -> Policy:
        policy = Policy(text, lambda: Engine(self._launch))
        store = self.store
        if store is not None:
            policy.keep = lambda state: store.write_state(text, state)
        return policy

    def _keep(self, policy: Policy) -> None:
        if self.store is not None:
            self.store.write_policy(policy.text, json.dumps(policy.state))

    async def _ask(self, call: _Call, handler: Any, agent: Agent) -> Any:
        self._admit(call, await self._decide(call))
        result = handler(agent, call.request)
        return await result if isinstance(result, Awaitable) else result

    async def _stream(self, call: _Call, handler: Any, agent: Agent) -> AsyncGenerator[Any, None]:
        self._admit(call, await self._decide(call))
        async with aclosing(handler(agent, call.request)) as messages:
            async for message in messages:
                yield message

    async def _read(self, call: _Call, result: Any) -> Any:
        """The read first, as in Kata's agent: who may not have the data learns when there is some, and its end."""
        if isinstance(result, Awaitable):
            result = await result
        try:
            decision = await self._decide(call)
        except BaseException:
            if isinstance(result, PipeReply):
                result.finished(delivered=False)  # it stays where it is
            raise
        self._note(call, decision)
        if decision.allowed or self.audit:
            return result
        if isinstance(result, PipeReply):
            result.take()
            result.finished(delivered=False)
        from kata_protocols.gen.agent_pb2 import ReadStreamResponse

        return ReadStreamResponse()

    async def _decide(self, call: _Call) -> Decision:
        assert self.policy is not None  # noqa: S101 - a policy is replaced, never removed
        settled = self.policy.settled(call.rule)
        if settled is not None:
            return settled
        return await self.policy.decide(call.rule, lambda: input_json(call.request))

    def _admit(self, call: _Call, decision: Decision) -> None:
        """Return when the call may go on."""
        self._note(call, decision)
        if decision.allowed or self.audit:
            return
        if decision.kind == UNDEFINED and is_ours(call.service, call.method):
            raise Denied(f"{call.rule} is blocked by policy: it does not name this rule")
        if decision.kind == DENIED:
            raise Denied(decision.text)
        raise AgentError(decision.text)

    def _note(self, call: _Call, decision: Decision) -> None:
        container_id = getattr(call.request, "container_id", "")
        self.journal.note(
            decision,
            time_ns=time.time_ns(),
            method=call.method,
            container_id=container_id,
            enforced=not self.audit,
            duration_us=(time.monotonic_ns() - call.started_ns) // 1000,
        )
        if not decision.allowed and self.audit:
            fields = {"method": call.method, "container-id": container_id, "decision": decision.text}
            self._log.warning("policy", "would have been refused", **fields)


class _Call:
    """One call on its way through the gate."""

    __slots__ = ("method", "request", "rule", "service", "started_ns")

    def __init__(self, service: str, method: str, request: Any) -> None:
        self.service = service
        self.method = method
        self.request = request
        self.rule: str = request.DESCRIPTOR.name
        self.started_ns = time.monotonic_ns()
