"""What operators read of a real agent: its log on a port, its level, and what it was doing when it died."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kata_host.guest_port import read_lines
from kata_host.spans import listen_for_spans, receive_spans
from kata_protocols import services
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.aio.dial import dial
from kata_protocols.span import ERROR
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import outcome, run_async

pytestmark = pytest.mark.requires(*NEEDS)

SANDBOX = services.SANDBOX_SERVICE
TOOL = (sys.executable, "-m", "kata_host.cli.main")
TIMEOUT_S = 60.0
DEADLINE_S = 150.0


async def ask(agent: NativeAgent, name: str, **fields: Any) -> Any:
    method = SANDBOX.methods[name]
    return await (await agent.client()).call(method, method.request_type(**fields), timeout_s=TIMEOUT_S)


async def tool(agent: NativeAgent, *words: str, status: int = 0) -> str:
    assert isinstance(agent.address, UnixAddress)
    process = await asyncio.create_subprocess_exec(
        *(*TOOL, *words, "--server-address", f"unix://{agent.address.path}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == status, errors.decode()
    return output.decode() + errors.decode()


async def find(records: AsyncGenerator[bytes, None], message: str) -> dict[str, str]:
    """The next record with this message."""
    async for line in records:
        record: dict[str, str] = json.loads(line)
        if record["msg"] == message:
            return record
    raise AssertionError(f"no record says {message!r}")


async def kill_agent(agent: NativeAgent, number: signal.Signals) -> None:
    """End the agent while a wait is under way, and meet the next one."""
    container = await agent.run("sleep", "1000")
    client = await agent.client()
    wait = services.AGENT_SERVICE.methods["WaitProcess"]
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            outcome(client.call(wait, wait.request_type(container_id=container), timeout_s=TIMEOUT_S))
        )
        await agent.check()  # meanwhile the wait is sent
        await (
            agent.check()
        )  # sent behind it on the same connection, so the wait has begun before this is answered
        os.kill(agent.agent_pid(), number)
    assert isinstance(waiting.result(), ConnectionLostError)
    await agent.check()


def test_log_port_has_the_start_and_what_follows_and_outlives_the_agent(tmp_path: Path) -> None:
    port = UnixAddress(str(tmp_path / "log.sock"))

    async def body() -> None:
        words = (f"agent.log_vport=unix://{port.path}",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            with await dial(port, timeout_s=TIMEOUT_S) as connection:
                async with aclosing(read_lines(connection)) as records:
                    announced = await find(records, "announce")
                    assert announced["log-listener"] == f"unix://{port.path}"
                    container = await agent.run("true")
                    assert (await find(records, "container created"))["container-id"] == container
                    await kill_agent(agent, signal.SIGKILL)
                    assert [line async for line in records][-1]
            with await dial(port, timeout_s=TIMEOUT_S) as connection:
                async with aclosing(read_lines(connection)) as records:
                    told = await find(records, "the agent before this one has ended")
                    assert told["life"] == "1"
                    assert "SIGKILL" in told["reason"] or "signal 9" in told["reason"]
                    assert told["calls"].startswith(f"WaitProcess {agent.made[-1]} (under way); ")
                    assert "StartContainer" in told["calls"]

    run_async(body(), DEADLINE_S)


def test_tool_prints_the_log_port_until_the_agent_hangs_up(tmp_path: Path) -> None:
    port = tmp_path / "log.sock"

    async def body() -> None:
        words = (f"agent.log_vport=unix://{port}",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            asking = asyncio.create_subprocess_exec(
                *TOOL, "logs", "--port-address", f"unix://{port}", stdout=asyncio.subprocess.PIPE
            )
            process = await asking
            assert process.stdout is not None
            first = (await process.stdout.readline()).decode().split()
            assert first[1:4] == ["INFO", "root:", "announce"]
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGKILL)
            await process.communicate()
            assert process.returncode == 0
            await client.wait_closed()
            await agent.check()

    run_async(body(), DEADLINE_S)


def test_level_changes_while_it_runs_and_nonsense_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path) as agent:
            assert await tool(agent, "log-level") == "info\n"
            assert await tool(agent, "log-level", "error") == "error (was info)\n"
            answer = await ask(agent, "LogLevel")
            assert (answer.level, answer.before, answer.dropped) == ("error", "error", 0)
            with pytest.raises(StatusError, match="log level 'loud': not one of trace, debug") as caught:
                await ask(agent, "LogLevel", level="loud")
            assert caught.value.code is Code.INVALID_ARGUMENT
            with pytest.raises(StatusError):
                await agent.call("StartContainer", container_id="nobody")
            assert '"method":"StartContainer"' not in agent.log.read_text()
            assert "log level changed" in agent.log.read_text()
            assert await tool(agent, "log-level", "debug") == "debug (was error)\n"
            assert agent.log.read_text().count("log level changed") == 2
            assert "invalid choice" in await tool(agent, "log-level", "loud", status=2)

    run_async(body(), DEADLINE_S)


def test_why_shows_what_the_dead_agent_was_doing(tmp_path: Path) -> None:
    async def body() -> None:
        async with native_agent(tmp_path, supervised=True) as agent:
            assert (await tool(agent, "why")).startswith("the agent has not ended since the boot")
            await kill_agent(agent, signal.SIGSEGV)
            container = agent.made[-1]
            answer = await ask(agent, "LastCalls")
            calls = {call.method: call for call in answer.calls if call.life == 1}
            assert (calls["WaitProcess"].container_id, calls["WaitProcess"].finished) == (container, False)
            assert (calls["StartContainer"].finished, calls["StartContainer"].code) == (True, 0)
            assert "Segmentation fault" in answer.crash
            assert "run_supervised" in answer.crash
            lines = (await tool(agent, "why")).splitlines()
            assert lines[0].startswith("agent 1 ended: ")
            assert lines[1].endswith(f"WaitProcess {container}: under way")
            assert any("Segmentation fault" in line for line in lines)
            printed = json.loads(await tool(agent, "why", "--json"))
            assert printed["life"] == 2

    run_async(body(), DEADLINE_S)


def test_part_that_cannot_be_opened_is_told_and_the_agent_serves(tmp_path: Path) -> None:
    async def body() -> None:
        words = (f"agent.log_vport=unix://{tmp_path}/none/log.sock",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            assert "no log port" in agent.log.read_text()
            assert (await ask(agent, "LastCalls")).life == 1

    run_async(body(), DEADLINE_S)


def test_calls_are_spans_below_their_callers_at_the_forwarder(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "spans.sock"))
    parent = ("00f067aa0ba902b7", "4bf92f3577b34da6a3ce929d0e0e4736")
    metadata = (("traceparent", f"00-{parent[1]}-{parent[0]}-01"),)

    async def body() -> None:
        words = ("agent.trace", f"agent.trace_address=unix://{address.path}")
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            with listen_for_spans(address) as listener:
                async with aclosing(receive_spans(listener)) as received:
                    client = await agent.client()
                    method = services.AGENT_SERVICE.methods["GetGuestDetails"]
                    await client.call(method, method.request_type(), timeout_s=TIMEOUT_S, metadata=metadata)
                    span = await anext(received)
                    assert (span.name, span.parent_id.hex(), span.trace_id.hex()) == (
                        "get_guest_details",
                        *parent,
                    )
                    with pytest.raises(StatusError):
                        await agent.call("StartContainer", container_id="nobody")
                    span = await anext(received)
                    assert (span.name, span.status) == ("start_container", ERROR)
                    assert "nobody" in span.status_message
                    assert span.attributes["container-id"] == "nobody"

    run_async(body(), DEADLINE_S)


def test_tool_prints_spans_as_they_come(tmp_path: Path) -> None:
    address = tmp_path / "spans.sock"

    async def body() -> None:
        process = await asyncio.create_subprocess_exec(
            *(*TOOL, "traces", "--json", "--count", "1", "--listen", f"unix://{address}"),
            stdout=asyncio.subprocess.PIPE,
        )
        with await dial(UnixAddress(str(address)), timeout_s=TIMEOUT_S):
            pass  # it listens
        words = ("agent.trace", f"agent.trace_address=unix://{address}")
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            await agent.call("GetGuestDetails")
            output, _ = await process.communicate()
        assert json.loads(output)["name"] == "get_guest_details"
        assert not address.exists()

    run_async(body(), DEADLINE_S)
