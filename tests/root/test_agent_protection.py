"""The agent is the last that a guest out of memory loses; what runs in containers does not inherit that."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kata_protocols.gen import oci_pb2
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

SHOW = ("cat", "/proc/self/oom_score_adj")


def read_adjustment(pid: int) -> str:
    """What the out-of-memory killer adds to the process's score."""
    return Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii")


def can_lower() -> bool:
    """Whether root has CAP_SYS_RESOURCE here; tried by a child, as it cannot be taken back."""
    command = ["sh", "-c", "echo -1 > /proc/self/oom_score_adj"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=10, check=False).returncode == 0


async def read_hook_scores(agent: NativeAgent, folder: Path) -> dict[str, str]:
    """What hooks of two kinds see: one is crun's child, the other the agent's."""
    scripts = {kind: f"cat /proc/self/oom_score_adj > {folder}/{kind}" for kind in ("Prestart", "Poststart")}
    container = fresh_id("hooked")
    spec = oci_spec("true")
    hooks = {
        kind: [oci_pb2.Hook(Path="/bin/sh", Args=["sh", "-c", script])] for kind, script in scripts.items()
    }
    spec.Hooks.CopyFrom(oci_pb2.Hooks(**hooks))
    await agent.call("CreateContainer", container_id=container, OCI=spec)
    agent.made.append(container)
    await agent.call("StartContainer", container_id=container)
    return {kind: (folder / kind).read_text(encoding="ascii").strip() for kind in scripts}


def test_the_agent_is_protected_and_containers_are_not(tmp_path):
    expected = "-997\n" if can_lower() else read_adjustment(os.getpid())

    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            assert read_adjustment(agent.agent_pid()) == expected
            shown = await agent.run(*SHOW)
            assert (await agent.read_all(shown))[0] == b"0\n"
            container = await agent.run("sleep", "1000")
            await agent.exec(container, "e", *SHOW)
            assert (await agent.read_all(container, "e"))[0] == b"0\n"
            await agent.exec(container, "t", *SHOW, Terminal=True)
            assert (await agent.read_all(container, "t"))[0] == b"0\r\n"
            assert await read_hook_scores(agent, tmp_path) == {"Prestart": "0", "Poststart": "0"}
            chosen = await agent.run(*SHOW, OOMScoreAdj=700)
            assert (await agent.read_all(chosen))[0] == b"700\n"

    run_async(body())
