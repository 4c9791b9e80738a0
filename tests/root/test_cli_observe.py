"""`events`, `ps`, `exits`, `why` and `kill` of the tool, as a process of its own, against an agent on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kata_protocols.aio.address import UnixAddress
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

LIMIT_S = 120.0  # a dozen interpreters are started one after the other
TOOL = (sys.executable, "-m", "kata_host.cli.main")


async def start(agent: NativeAgent, *words: str) -> asyncio.subprocess.Process:
    address = agent.address
    assert isinstance(address, UnixAddress)
    return await asyncio.create_subprocess_exec(
        *TOOL,
        *words,
        *("--server-address", f"unix://{address.path}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def tool(agent: NativeAgent, *words: str, status: int = 0) -> str:
    process = await start(agent, *words)
    output, errors = await process.communicate()
    assert process.returncode == status, errors.decode()
    return output.decode() + errors.decode()


async def lines(agent: NativeAgent, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await tool(agent, *words, "--json")).splitlines()]


def test_each_verb_shows_its_part_for_people_and_for_programs(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            container = await agent.run("cat", "-")
            await agent.call("WriteStdin", container_id=container, data=b"x")
            assert await agent.read(container) == b"x"  # crun's init has become the program
            await agent.exec(container, "probe", "sh", "-c", "exit 3")
            await agent.wait(container, "probe")
            listed = await tool(agent, "ps", container)
            assert listed.splitlines()[0].split()[:4] == ["CONTAINER", "EXEC", "PID", "PPID"]
            assert listed.splitlines()[1].endswith(" cat -")
            assert [process["name"] for process in await lines(agent, "ps")] == ["cat"]
            assert await tool(agent, "kill", "--signal", "TERM", "--exec", "probe", container, status=1) == (
                "0 processes signalled\n"
            )
            assert await tool(agent, "kill", container) == "1 process signalled\n"
            await agent.wait(container)
            exits = (await tool(agent, "exits")).splitlines()
            assert [line.split()[-1] for line in exits[1:]] == ["3", "SIGKILL"]
            assert [end.get("exec_id", "") for end in await lines(agent, "exits", container)] == ["probe", ""]
            why = (await tool(agent, "why", container)).splitlines()
            assert why[0] == (f"{container} (stopped): SIGKILL ended it, which the host had sent (KillTree)")
            told = await tool(agent, "events", container)
            assert [line.split("  ")[1] for line in told.splitlines()] == [
                *("container created", "started", "started", "exited", "exited")
            ]
            (event, *_) = await lines(agent, "events", "--since", "00000000.1")
            assert event["gap"]["reason"].startswith("the history of that cursor is gone")
            assert "INVALID_ARGUMENT: cursor 'x'" in await tool(agent, "events", "--since", "x", status=1)
            told = await tool(agent, "why", "nobody", status=1)
            assert "it does not exist" in told
            assert "kata-agent-ctl: hint: `kata-agent-ctl ps` lists containers" in told

    run_async(body(), LIMIT_S)


def test_followed_events_go_on_over_the_agents_death(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sh", "-c", "read x; exit 6")
            process = await start(agent, "events", "--follow", "--json")
            assert process.stdout is not None
            seen = [json.loads(await process.stdout.readline()) for _ in range(2)]
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGKILL)
            await client.wait_closed()
            await agent.call("WriteStdin", container_id=container, data=b"go\n")
            seen += [json.loads(await process.stdout.readline()) for _ in range(2)]
            assert [event["sequence"] for event in seen] == [1, 2, 3, 4]
            assert seen[2]["restart"]["reason"] == "signal 9"
            boot = (await tool(agent, "boot")).splitlines()
            assert boot[1].startswith("pid1 start")
            assert "agent: life 2, the one before ended by signal 9" in boot
            assert seen[3]["exit"]["code"] == 6
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            await process.communicate()

    run_async(body(), LIMIT_S)


def test_an_agent_that_is_not_there_is_told_with_its_address(tmp_path: Path) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_exec(
            *TOOL, "ps", "--vm", "nowhere", stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KATA_VM_DIR": str(tmp_path)},
        )  # fmt: skip
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert b"no VM named 'nowhere' runs" in errors

    run_async(body())
