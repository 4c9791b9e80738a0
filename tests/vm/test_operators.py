"""What operators read of a real guest: its log and its kernel's, spans, a shell, and what a dead agent was doing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kata_agent.debug_console import SESSIONS
from kata_host.connect import open_caller
from kata_host.guest_port import CONSOLE_PORT, LOG_PORT, dial_port, find_port_address, read_lines
from kata_host.sandbox_service import SandboxService
from kata_host.spans import find_trace_address, listen_for_spans, receive_spans
from kata_host.vm.console import find_trouble
from kata_protocols import services
from kata_protocols.aio.client import Client
from kata_protocols.aio.hangup import hanging_up
from kata_protocols.span import Span
from kata_testing.guest import run_tool
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 120.0
WORDS = (
    *("agent.log_vport=1025", "agent.kernel_log", "agent.trace", "loglevel=5"),
    *("agent.debug_console", "agent.debug_console_vport=1026"),
)
NAME = "get_guest_details"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Machine(NamedTuple):
    """A machine of this file's own: the shared one has none of this."""

    address: str
    vm_dir: Path
    console: Path


@pytest.fixture(scope="module")
def machine(short_folder: Path) -> Iterator[Machine]:
    vm_dir = short_folder / "operators"
    kernel_args = [part for word in WORDS for part in ("--kernel-arg", word)]
    done = run_tool("vm", "start", "--name", "o", "--json", *kernel_args, vm_dir=vm_dir)
    assert done.returncode == 0, done.stderr.decode()
    described = json.loads(done.stdout)
    try:
        yield Machine(described["address"], vm_dir, Path(described["console"]))
    finally:
        run_tool("vm", "stop", "--all", vm_dir=vm_dir, timeout_s=30)


def tool(machine: Machine, *words: str, typed: str = "") -> str:
    more: dict[str, Any] = {"input": typed.encode()} if typed else {}
    done = run_tool(*words, "--vm", "o", vm_dir=machine.vm_dir, timeout_s=DEADLINE_S, **more)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def find(lines: AsyncGenerator[bytes, None], **wanted: str) -> dict[str, str]:
    """The next record with these values."""
    async for line in lines:
        record: dict[str, str] = json.loads(line)
        if wanted.items() <= record.items():
            return record
    raise AssertionError(f"no record has {wanted}")


def test_log_port_has_the_agent_s_records_and_the_kernel_s_and_the_level_changes(machine: Machine) -> None:
    async def body() -> None:
        address = find_port_address(machine.address, LOG_PORT)
        with await dial_port(address, "agent.log_vport=1025") as connection:
            async with (
                aclosing(read_lines(connection)) as lines,
                await open_caller(machine.address) as client,
            ):
                announced = await find(lines, msg="announce", source="agent")
                assert announced["log-listener"] == "vsock://-1:1025"
                kernel = await find(lines, subsystem="kernel")
                assert kernel["level"] in ("INFO", "WARN", "ERRO", "CRIT")
                changed = await SandboxService(client).log_level("debug")
                assert (changed.before, changed.level) == ("info", "debug")
                assert (await find(lines, msg="log level changed"))["now"] == "debug"

    run_async(body(), DEADLINE_S)


@pytest.mark.parametrize(
    ("metadata", "parent"),
    [
        ((("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "a=1")), PARENT),
        ((("traceparent", "x" * 100_000), ("tracestate", "y" * 100_000)), "0" * 16),
    ],
    ids=["a caller's context", "metadata too long"],
)
def test_call_is_a_span_at_the_host_s_port(
    machine: Machine, metadata: tuple[tuple[str, str], ...], parent: str
) -> None:
    method = services.AGENT_SERVICE.methods["GetGuestDetails"]

    async def call_on(client: Client) -> None:
        """An exporter that has found nobody tries again with a call that comes a second later."""
        while True:
            await client.call(method, method.request_type(), timeout_s=DEADLINE_S, metadata=metadata)

    async def body() -> Span:
        with listen_for_spans(find_trace_address(machine.address)) as listener:
            async with (
                aclosing(receive_spans(listener)) as spans,
                await open_caller(machine.address) as client,
                asyncio.TaskGroup() as group,
            ):
                calling = group.create_task(call_on(client))
                while (span := await anext(spans)).parent_id.hex() != parent or span.name != NAME:
                    pass  # others have waited for a listener
                calling.cancel()
                return span

    address = find_trace_address(machine.address)
    try:
        span = run_async(body(), DEADLINE_S)
    finally:
        os.unlink(str(address).removeprefix("unix://"))
    assert (span.trace_id.hex() == TRACE) == (parent == PARENT)
    assert 0 < span.end_ns - span.start_ns < DEADLINE_S * 1e9
    assert span.attributes["rpc.method"] == "GetGuestDetails"


def test_shell_in_the_guest_has_a_terminal_and_shows_the_settings_with_their_source(machine: Machine) -> None:
    shown = tool(
        machine, "console", typed="stty size; echo pid1-$(cat /proc/1/comm); kata-agent --print-config\n"
    )
    assert "24 80" in shown
    assert "pid1-init" in shown
    row = next(line.split() for line in shown.splitlines() if line.startswith("log_vport"))
    assert row == ["log_vport", "vsock://-1:1025", "kernel", "command", "line"]


def test_shells_whose_clients_left_without_reading_are_ended(machine: Machine) -> None:
    """More of them than there may be at once: the vsock device tells the guest of each."""

    async def leave() -> None:
        address = find_port_address(machine.address, CONSOLE_PORT)
        with hanging_up(await dial_port(address, "agent.debug_console_vport=1026")) as connection:
            readable = asyncio.Event()
            asyncio.get_running_loop().add_reader(connection, readable.set)
            await readable.wait()
            asyncio.get_running_loop().remove_reader(connection)

    async def body() -> None:
        for _ in range(3 * SESSIONS):
            await leave()

    run_async(body(), DEADLINE_S)
    assert "pid1-init" in tool(machine, "console", typed="echo pid1-$(cat /proc/1/comm)\n")


def test_why_shows_what_an_agent_was_asked_before_it_was_killed(machine: Machine) -> None:
    asyncio.run(_ask_details(machine))
    tool(machine, "console", typed="kill -SEGV $(cat /proc/1/task/1/children)\n")
    lines = tool(machine, "why").splitlines()
    assert lines[0].startswith("agent 1 ended: ")
    assert any("GetGuestDetails" in line and ": OK after" in line for line in lines)
    assert any("Segmentation fault" in line for line in lines)
    assert not find_trouble(machine.console.read_text(errors="replace"))


async def _ask_details(machine: Machine) -> None:
    method = services.AGENT_SERVICE.methods["GetGuestDetails"]
    async with await open_caller(machine.address) as client:
        await client.call(method, method.request_type(), timeout_s=DEADLINE_S)
