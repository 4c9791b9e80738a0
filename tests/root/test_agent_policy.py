"""A policy in a real agent with the real engine: what a host sees of it, and that it outlives the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from kata_protocols import services
from kata_protocols.gen import sandbox_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, agent_pb2, native_agent, oci_process
from kata_testing.wire import outcome, run_async

pytestmark = pytest.mark.requires(*NEEDS, "policy-engine")

SANDBOX = services.SANDBOX_SERVICE

BASE = """package agent_policy
default SetPolicyRequest := true
default CreateContainerRequest := true
default StartContainerRequest := true
default WaitProcessRequest := true
default RemoveContainerRequest := true
default SignalProcessRequest := true
default ReadStreamRequest := true
default PolicyLogRequest := true
"""
NO_EXEC = """
default ExecProcessRequest := false
ExecProcessRequest { print("exec of", input.process.Args); input.process.Args[0] == "true" }
"""


async def set_policy(agent: NativeAgent, text: str) -> None:
    await agent.call("SetPolicy", policy=BASE + text)


async def ask(agent: NativeAgent, name: str, **fields: Any) -> Any:
    """One call of our own service."""
    method = SANDBOX.methods[name]
    return await (await agent.client()).call(method, method.request_type(**fields), timeout_s=20)


async def refusal(call: Any) -> tuple[Code, str]:
    with pytest.raises(StatusError) as caught:
        await call
    return caught.value.code, caught.value.message


def test_a_denial_has_kata_s_code_and_text_with_what_the_rule_printed(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            await set_policy(agent, NO_EXEC)
            container = await agent.run("sleep", "100")
            await agent.exec(container, "a", "true")
            code, text = await refusal(agent.exec(container, "b", "id", "-u"))
            assert code == Code.PERMISSION_DENIED
            assert text.startswith("ExecProcessRequest is blocked by policy: ")
            assert 'exec of ["id", "-u"]' in text
            code, text = await refusal(agent.call("StatsContainer", container_id=container))
            assert code == Code.INTERNAL
            assert text.startswith("StatsContainerRequest: internal error")
            log = await ask(agent, "PolicyLog")
            refused = [entry for entry in log.decisions if entry.outcome != "allowed"]
            assert [(e.rule, e.outcome, e.enforced, e.container_id) for e in refused] == [
                ("ExecProcessRequest", "denied", True, container),
                ("StatsContainerRequest", "undefined", True, container),
            ]
            assert log.source == "SetPolicy"
            assert log.allowed["CreateContainerRequest"] == 1

    run_async(body())


def test_health_never_asks_and_our_own_service_is_denied_what_the_policy_does_not_name(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            assert (await ask(agent, "PolicyLog")).source == ""
            await ask(agent, "ListExits")
            await set_policy(agent, "default WhyRequest := true")
            await agent.check()
            code, text = await refusal(ask(agent, "ListExits"))
            assert (code, text) == (
                Code.PERMISSION_DENIED,
                "ListExitsRequest is blocked by policy: it does not name this rule",
            )
            code, _ = await refusal(ask(agent, "Why", container_id="nobody"))
            assert code == Code.NOT_FOUND
            code, _ = await refusal(agent.call("ResizeVolume", volume_guest_path="/x", size=1))
            assert code == Code.PERMISSION_DENIED

    run_async(body())


def test_grpc_asks_as_ttrpc_does(tmp_path: Path) -> None:
    def call(path: str, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(
            f"unix:{path}", options=[("grpc.default_authority", "localhost")]
        ) as channel:
            ask = channel.unary_unary(method, request_serializer=lambda message: message.SerializeToString())
            with pytest.raises(grpc.RpcError) as caught:
                ask(request, timeout=20)
            return caught.value.code(), caught.value.details()

    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            await set_policy(agent, NO_EXEC)
            path = str(tmp_path / "agent.sock")
            request = agent_pb2.ExecProcessRequest(process=oci_process("id"))
            code, text = await asyncio.to_thread(call, path, "/grpc.AgentService/ExecProcess", request)
            assert (code, text.split(":")[0]) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "ExecProcessRequest is blocked by policy",
            )
            events = sandbox_pb2.PollEventsRequest()
            code, _ = await asyncio.to_thread(call, path, "/kata.agent.v1.Sandbox/PollEvents", events)
            assert code == grpc.StatusCode.PERMISSION_DENIED

    run_async(body())


def test_denied_reads_wait_for_data_are_empty_and_end_with_the_stream(tmp_path: Path) -> None:
    hide = BASE.replace("default ReadStreamRequest := true", "default ReadStreamRequest := false")

    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            await agent.call("SetPolicy", policy=hide)
            container = await agent.run("sh", "-c", "echo secret; sleep 0.2; echo more; exit 3")
            seen: list[bytes] = []
            while not isinstance(got := await outcome(agent.read(container)), StatusError):
                seen.append(got)
            assert "eof" in got.message
            assert set(seen) == {b""}
            assert 1 <= len(seen) <= 2
            assert await agent.wait(container) == 3

    run_async(body())


def test_state_goes_from_call_to_call_and_both_outlive_the_agent(tmp_path: Path) -> None:
    once = """
CreateContainerRequest := {"allowed": true, "ops": ops} {
    not data.pstate.made
    ops := [{"op": "add", "path": "/pstate/made", "value": input.container_id}]
}
"""
    text = (
        BASE.replace("default CreateContainerRequest := true", "default CreateContainerRequest := false")
        + once
    )

    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            await agent.call("SetPolicy", policy=text)
            first = await agent.run("sleep", "100")
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGKILL)
            await client.wait_closed()
            code, message = await refusal(agent.create("second", "true"))
            assert code == Code.PERMISSION_DENIED, message
            code, message = await refusal(agent.call("StatsContainer", container_id=first))
            assert message.startswith("StatsContainerRequest: internal error")
            log = await ask(agent, "PolicyLog")
            assert log.source == "an earlier SetPolicy"
            # Another policy, and the same text again, start with a state of their own.
            await agent.call("SetPolicy", policy=text)
            await agent.create("second-container", "true")

    run_async(body())


@pytest.mark.parametrize("at_start", ["constant", "engine"])
def test_no_moment_after_a_restart_lets_a_denied_call_through(tmp_path: Path, at_start: str) -> None:
    rule = "default ExecProcessRequest := false" if at_start == "constant" else NO_EXEC

    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            await set_policy(agent, rule)
            container = await agent.run("sleep", "100")
            for number in range(3):
                client = await agent.client()
                os.kill(agent.agent_pid(), signal.SIGKILL)
                await client.wait_closed()
                lanes = [agent.another() for _ in range(4)]
                async with asyncio.TaskGroup() as group:
                    asked = [
                        group.create_task(outcome(lane.exec(container, f"e{number}", "id"))) for lane in lanes
                    ]
                for task in asked:
                    result = task.result()
                    assert isinstance(result, StatusError), result
                    assert result.code == Code.PERMISSION_DENIED

    run_async(body())


def test_a_broken_policy_is_refused_with_its_place_and_the_old_one_stays(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            code, text = await refusal(agent.call("SetPolicy", policy="package agent_policy\n\nX := {"))
            assert code == Code.INVALID_ARGUMENT
            assert "policy.rego:3" in text
            container = await agent.run("sleep", "100")
            await set_policy(agent, NO_EXEC)
            for bad in (
                "package agent_policy\nX { y == 1 }",
                "package other\nX := true",
                "",
                "x" * (3 << 20),
            ):
                code, _ = await refusal(agent.call("SetPolicy", policy=bad))
                assert code == Code.INVALID_ARGUMENT, bad[:40]
            code, _ = await refusal(agent.exec(container, "b", "id"))
            assert code == Code.PERMISSION_DENIED

    run_async(body())


def test_a_policy_that_does_not_allow_another_one_stays(tmp_path: Path) -> None:
    last = BASE.replace("default SetPolicyRequest := true", 'SetPolicyRequest { input.policy == "x" }')

    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            await agent.call("SetPolicy", policy=last.replace('{ input.policy == "x" }', "{ false }"))
            code, text = await refusal(set_policy(agent, ""))
            assert (code, text.split(":")[0]) == (Code.INTERNAL, "SetPolicyRequest")

    run_async(body())


def test_policies_that_loop_or_crash_the_engine_hurt_nobody_else(tmp_path: Path) -> None:
    bad = """
default ExecProcessRequest := false
n := numbers.range(0, 400)
ExecProcessRequest { input.exec_id == "loop"; n[i]; n[j]; n[k]; n[l]; i + j + k + l < 0 }
ExecProcessRequest { input.exec_id == "crash"; f(1) }
f(x) := y { y := f(x) }
"""

    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            await set_policy(agent, bad)
            container = await agent.run("sleep", "100")
            slow, other = agent.another(), agent.another()
            async with asyncio.TaskGroup() as group:
                loop = group.create_task(outcome(slow.exec(container, "loop", "id")))
                # Neither the agent's event loop nor a rule that needs no engine waits for it.
                begin = time.monotonic()
                await other.check()
                await refusal(other.call("StartContainer", container_id="nobody"))
                if time.monotonic() - begin < 3:  # else this machine stood still
                    assert not loop.done()
            assert isinstance(loop.result(), StatusError)
            assert loop.result().code == Code.INTERNAL
            assert "limit" in loop.result().message
            code, text = await refusal(agent.exec(container, "crash", "id"))
            assert (code, "signal 11: the policy overflowed the stack" in text) == (Code.INTERNAL, True), text
            code, text = await refusal(agent.exec(container, "c", "id"))
            assert code == Code.PERMISSION_DENIED, text

    run_async(body())


def test_audit_refuses_nothing_and_tells_everything(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True, words=["agent.policy_audit=true"]) as agent:
            await set_policy(agent, NO_EXEC)
            container = await agent.run("sleep", "100")
            await agent.exec(container, "b", "id")
            log = await ask(agent, "PolicyLog")
            assert log.audit
            (entry,) = [e for e in log.decisions if e.outcome == "denied"]
            assert (entry.rule, entry.enforced) == ("ExecProcessRequest", False)
            assert "would have been refused" in agent.log.read_text()

    run_async(body())


@asynccontextmanager
async def agent_with_file(folder: Path, text: str | None):
    file = folder / "default.rego"
    if text is not None:
        file.write_text(text)
    async with native_agent(folder, environment={"KATA_AGENT_POLICY_FILE": str(file)}) as agent:
        yield agent


def test_a_configured_policy_is_in_force_from_the_first_call(tmp_path: Path) -> None:
    async def body() -> None:
        async with agent_with_file(tmp_path, BASE + NO_EXEC) as agent:
            container = await agent.run("sleep", "100")
            code, _ = await refusal(agent.exec(container, "b", "id"))
            assert code == Code.PERMISSION_DENIED

    run_async(body())


@pytest.mark.parametrize("text", [None, "package agent_policy\nX := {", "package other\nX := true"])
def test_a_configured_policy_that_cannot_be_used_denies_everything_but_health(
    tmp_path: Path, text: str | None
) -> None:
    async def body() -> None:
        async with agent_with_file(tmp_path, text) as agent:
            await agent.check()
            for call in (
                agent.call("GetGuestDetails"),
                agent.call("SetPolicy", policy=BASE),
                agent.call("CreateSandbox", sandbox_id="s"),
                ask(agent, "PolicyLog"),
            ):
                code, message = await refusal(call)
                assert code == Code.INTERNAL
                assert "internal error: policy engine: " in message

    run_async(body())


def test_the_engine_is_no_left_over(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            assert engines(agent) == 0
            for _ in range(3):
                await set_policy(agent, NO_EXEC)
            assert engines(agent) == 1

    run_async(body())


def engines(agent: NativeAgent) -> int:
    pid = agent.agent_pid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(b"kata_policy.worker" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
