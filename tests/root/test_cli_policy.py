"""`kata-agent-ctl policy` as a process of its own: off line, and against an agent on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kata_protocols.aio.address import UnixAddress
from kata_testing.native import NEEDS, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("policy-engine")

TOOL = (sys.executable, "-m", "kata_host.cli.main", "policy")
POLICY = """package agent_policy
import future.keywords.in
default GuestDetailsRequest := true
default PolicyLogRequest := true
default ExecProcessRequest := false
ExecProcessRequest { print("asked for", input.process.Args); input.process.Args == ["date"] }
CreateContainerRequest := {"allowed": true, "ops": ops} {
    not input.container_id in data.pstate.made
    ops := [{"op": "add", "path": "/pstate/made/-", "value": input.container_id}]
}
"""


def tool(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*TOOL, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "rules.rego"
    file.write_text(POLICY)
    return str(file)


def test_check_without_a_request_says_what_is_there_and_what_is_missing(policy: str) -> None:
    done = tool("check", policy)
    assert done.stdout == f"{policy}: 4 rules, 2 of them constants\n"
    assert "no rule for: AddARPNeighborsRequest, " in done.stderr
    assert "ExecProcessRequest" not in done.stderr


def test_check_evaluates_requests_in_their_order_by_call_or_message(policy: str, tmp_path: Path) -> None:
    requests = [
        {"CreateContainer": {"container_id": "a"}},
        {"CreateContainerRequest": {"container_id": "a"}},
        {"ExecProcess": {"process": {"args": ["date"]}}},
        {"ExecProcess": {"process": {"args": ["id"]}}},
    ]
    file = tmp_path / "requests.json"
    file.write_text(json.dumps(requests))
    done = tool("check", policy, "--state", '{"made": []}', "--request", str(file), status=1)
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines if not line.startswith(" ")] == [
        "allowed", "undefined", "allowed", "denied",
    ]  # fmt: skip
    assert 'asked for ["id"]' in lines[-1]
    allowed = tool("check", policy, "--json", "--request", '{"ExecProcess": {"process": {"args": ["date"]}}}')
    assert json.loads(allowed.stdout)["kind"] == "allowed"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--request", "{"], 2, "--request: no JSON"),
        (["--request", "/no/file"], 2, "No such file"),
        (["--request", '{"Nonsense": {}}'], 2, "Nonsense: no request or call has this name"),
        (["--request", '{"ExecProcess": {"exec_id": 3}}'], 2, "exec_id: want text"),
        (["--request", "[3]"], 2, "want an object such as"),
        (["--state", "[]"], 2, "--state: want a JSON object"),
    ],
)
def test_check_says_what_is_wrong_with_its_arguments(
    policy: str, words: list[str], status: int, text: str
) -> None:
    assert text in tool("check", policy, *words, status=status).stderr


def test_check_tells_a_broken_policy_s_place(tmp_path: Path) -> None:
    file = tmp_path / "bad.rego"
    file.write_text("package agent_policy\n\nX := {")
    assert "policy.rego:3" in tool("check", str(file), status=1).stderr
    assert "No such file" in tool("check", str(tmp_path / "none"), status=2).stderr


@pytest.mark.requires(*NEEDS)
def test_set_and_log_of_a_running_agent(policy: str, tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            assert isinstance(agent.address, UnixAddress)
            where = ("--server-address", f"unix://{agent.address.path}")
            assert tool("log", *where).stdout == "no policy is in force\n"
            tool("set", policy, *where)
            refused = tool("set", policy, *where, status=1).stderr
            assert "INTERNAL: SetPolicyRequest: internal error" in refused
            shown = tool("log", *where).stdout.splitlines()
            assert shown[0].endswith(" from SetPolicy, enforced")
            assert shown[1] == "allowed 1 calls, refused 1"
            assert shown[3].split()[3:6] == ["SetPolicy", "-", "undefined"]
            (entry,) = [json.loads(line) for line in tool("log", "--json", *where).stdout.splitlines()]
            assert (entry["rule"], entry["enforced"]) == ("SetPolicyRequest", True)

    run_async(body(), 120)  # several interpreters are started one after the other
