"""An agent that does not answer: PID 1 says so and why, the agent tells when it is back, or is started anew."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kata_protocols import services
from kata_protocols.gen import sandbox_pb2 as pb
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

SANDBOX = services.SANDBOX_SERVICE
QUICK = ("kata.heartbeat=0.05", "kata.silent=3")
"""An agent that merely waits for a processor must not be silent for so long."""


async def wait_for_line(agent: NativeAgent, text: str) -> str:
    """The first line with this text of PID 1's log, there or yet to come."""
    tail = await asyncio.create_subprocess_exec(
        "tail", "-n", "+1", "-f", str(agent.log), stdout=asyncio.subprocess.PIPE
    )
    assert tail.stdout is not None
    try:
        while (line := (await tail.stdout.readline()).decode(errors="replace")) and text not in line:
            pass
        return line
    finally:
        tail.kill()
        await tail.communicate()


async def ask(agent: NativeAgent, name: str, **fields: object) -> pb.GetBootResponse | pb.PollEventsResponse:
    method = SANDBOX.methods[name]
    answer: pb.GetBootResponse | pb.PollEventsResponse = await (await agent.client()).call(
        method, method.request_type(**fields), timeout_s=20
    )
    return answer


def test_a_stopped_agent_is_called_silent_and_tells_of_it_when_it_goes_on(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True, words=QUICK) as agent:
            os.kill(agent.agent_pid(), signal.SIGSTOP)
            assert "silent for 3 s, stopped" in await wait_for_line(agent, "agent is silent")
            os.kill(agent.agent_pid(), signal.SIGCONT)
            await wait_for_line(agent, "agent answers again after")
            hung = await ask(agent, "PollEvents", wait_ms=10000)
            assert isinstance(hung, pb.PollEventsResponse)
            assert [event.kind for event in hung.events] == [pb.AGENT_HUNG]
            boot = await ask(agent, "GetBoot")
            assert isinstance(boot, pb.GetBootResponse)
            assert boot.life == 1
            assert boot.worst_lag_us >= 3_000_000

    run_async(body())


def test_a_silent_agent_is_started_anew_when_that_is_asked_for(tmp_path: Path) -> None:
    async def body() -> None:
        words = (*QUICK, "kata.restart_silent=1")
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            container = await agent.run("sh", "-c", "read x; exit 4")
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGSTOP)
            await client.wait_closed()
            boot = await ask(agent, "GetBoot")
            assert isinstance(boot, pb.GetBootResponse)
            assert boot.last_end == "killed by PID 1: silent for 3 s, stopped"
            assert boot.life >= 2
            await agent.call("WriteStdin", container_id=container, data=b"go\n")
            assert await agent.wait(container) == 4

    run_async(body())
