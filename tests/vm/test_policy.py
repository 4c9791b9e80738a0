"""A policy in a real guest: set by the tool, asked by each call, and not lost when another agent takes over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_host.connect import connect
from kata_host.sandbox import Container, Sandbox, plan_share_storage
from kata_host.spec import ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.gen import agent_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.guest import run_tool
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "qemu", "guest-image", "policy-engine")

ALLOWED = """CreateSandbox GuestDetails CreateContainer StartContainer WaitProcess ReadStream CloseStdin
SignalProcess RemoveContainer DestroySandbox PolicyLog GetBoot Upgrade CopyFile"""
POLICY = (
    "package agent_policy\n"
    + "".join(f"default {name}Request := true\n" for name in ALLOWED.split())
    + """
default ExecProcessRequest := false
ExecProcessRequest { print("asked for", input.process.Args); regex.match("^(true|date)$", input.process.Args[0]) }
"""
)

TRUE = {"args": ["true"], "env": ["PATH=/bin"], "cwd": "/"}
ID = TRUE | {"args": ["id"]}


@pytest.fixture
def machine(short_folder: Path) -> Iterator[tuple[Path, str]]:
    """A machine of its own, because a policy stays: its folder and its agent's address."""
    folder = short_folder / "policy"
    folder.mkdir(mode=0o700)
    done = run_tool("vm", "start", "--name", "policy", "--json", vm_dir=folder)
    assert done.returncode == 0, done.stderr.decode()
    try:
        yield folder, json.loads(done.stdout)["address"]
    finally:
        run_tool("vm", "stop", "--all", vm_dir=folder, timeout_s=30)


def test_policy_is_set_by_the_tool_asked_and_kept_by_the_next_agent(machine: tuple[Path, str]) -> None:
    folder, address = machine
    file = folder / "rules.rego"
    file.write_text(POLICY)

    def tool(*words: str) -> str:
        done = run_tool(*words, vm_dir=folder)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    async def run() -> None:
        async with await connect(address) as client:
            details = await client.get_guest_details(agent_pb2.GuestDetailsRequest())
            assert "agent-policy" in details.agent_details.extra_features
            await asyncio.to_thread(tool, "policy", "set", str(file))
            request = agent_pb2.CreateSandboxRequest(sandbox_id="s", storages=[plan_share_storage()])
            await client.create_sandbox(request)
            plan = plan_spec(ProcessPlan(("sleep", "1000")), GUEST_SHARE)
            container = await Sandbox(client, "s", details).create(plan)
            await container.start()
            assert await (await container.exec(TRUE)).wait() == 0
            with pytest.raises(StatusError) as denied:
                await container.exec(ID)
            assert denied.value.code == Code.PERMISSION_DENIED
            assert denied.value.message.startswith("ExecProcessRequest is blocked by policy: ")
            assert 'asked for ["id"]' in denied.value.message
        await asyncio.to_thread(tool, "upgrade", str(BUILD / "guest" / "agent.zip"))
        async with await connect(address) as client:
            with pytest.raises(StatusError) as denied:
                await Container(client, container.container_id).exec(ID)
            assert denied.value.code == Code.PERMISSION_DENIED
            with pytest.raises(StatusError) as denied:
                await client.set_policy(agent_pb2.SetPolicyRequest(policy="package agent_policy"))
            assert denied.value.code == Code.INTERNAL

    asyncio.run(run())
    shown = tool("policy", "log")
    assert "from an earlier SetPolicy, enforced" in shown
    assert 'asked for ["id"]' in shown
