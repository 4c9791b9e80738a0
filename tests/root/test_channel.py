"""The agent's serial channel on this machine, where a pseudo terminal is the port and PID 1 keeps it over agents."""

from __future__ import annotations

import asyncio
import os
import signal
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_host.upgrade import upgrade
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.mux import Mux
from kata_protocols.gen import health_pb2
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.services import AGENT_SERVICE, HEALTH_SERVICE, SANDBOX_SERVICE
from kata_testing.agent_code import copy_code
from kata_testing.channel import open_client, open_stream
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import outcome, run_async

pytestmark = pytest.mark.requires(*NEEDS)

CHECK = HEALTH_SERVICE.methods["Check"]
GET_BOOT = SANDBOX_SERVICE.methods["GetBoot"]
LIMIT_S = 60.0


@pytest.fixture
def port() -> Iterator[tuple[int, str]]:
    """The host's side of a port, and the guest's path of it."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


async def check(client: Client) -> None:
    assert (await client.call(CHECK, health_pb2.CheckRequest(), timeout_s=LIMIT_S)).status == 1


async def read_life(host: Mux) -> int:
    async with open_client(host) as client:
        return int((await client.call(GET_BOOT, pb.GetBootRequest(), timeout_s=LIMIT_S)).life)


async def wait_for_life(host: Mux, life: int) -> None:
    """Ask over and over what cannot be told: a session of the agent before may still be going."""
    while True:
        try:
            if await read_life(host) == life:
                return
        except ConnectionLostError:
            continue


def test_an_agent_alone_serves_the_port_beside_its_socket(tmp_path: Path, port: tuple[int, str]) -> None:
    async def scenario() -> None:
        async with native_agent(tmp_path, environment={"KATA_AGENT_CHANNEL": port[1]}) as agent:
            host = Mux(os.dup(port[0]), client=True)
            async with open_client(host) as client:
                await check(client)
                await check(await agent.client())
            host.close()

    run_async(scenario(), LIMIT_S)


def test_a_port_that_cannot_be_opened_costs_nothing_but_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        environment = {"KATA_AGENT_CHANNEL": str(tmp_path / "nothing")}
        async with native_agent(tmp_path, environment=environment) as agent:
            await check(await agent.client())
            log = agent.log.read_text(encoding="utf-8")
        assert "the port cannot be opened" in log
        assert f"{tmp_path}/nothing" in log

    run_async(scenario(), LIMIT_S)


def test_killed_agents_are_followed_on_the_same_port_whatever_was_half_said(
    tmp_path: Path, port: tuple[int, str]
) -> None:
    """PID 1 keeps the port. The host sends all the time, so that each agent dies in the middle of something."""

    async def flood(host: Mux) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with open_stream(host) as sock:
                await outcome(loop.sock_sendall(sock, b"\0\0\x10\0\0\0\0\1\1\0" + bytes(3_000_000)))

    async def scenario() -> None:
        words = (f"kata.channel={port[1]}",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            host = Mux(os.dup(port[0]), client=True)
            async with asyncio.TaskGroup() as group:
                flooding = group.create_task(flood(host))
                for life in range(1, 6):
                    await wait_for_life(host, life)
                    await kill(agent)
                await wait_for_life(host, 6)
                flooding.cancel()
            host.close()

    run_async(scenario(), LIMIT_S)


async def kill(agent: NativeAgent) -> None:
    os.kill(agent.agent_pid(), signal.SIGKILL)


def test_an_upgraded_agent_goes_on_with_the_port(tmp_path: Path, port: tuple[int, str]) -> None:
    code = copy_code(tmp_path / "code")

    async def scenario() -> None:
        words = (f"kata.channel={port[1]}",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            host = Mux(os.dup(port[0]), client=True)
            await wait_for_life(host, 1)
            await upgrade(str(agent.address), pb.UpgradeRequest(path=str(code)))
            await wait_for_life(host, 2)
            host.close()

    run_async(scenario(), LIMIT_S)


def test_the_answer_to_the_sandboxs_end_gets_out(tmp_path: Path, port: tuple[int, str]) -> None:
    """The agent ends right after it: what it has said last must be on the port by then."""

    async def scenario() -> None:
        async with native_agent(tmp_path, environment={"KATA_AGENT_CHANNEL": port[1]}) as agent:
            host = Mux(os.dup(port[0]), client=True)
            async with open_client(host) as client:
                for name in ("CreateSandbox", "DestroySandbox"):
                    method = AGENT_SERVICE.methods[name]
                    await client.call(method, method.request_type(), timeout_s=LIMIT_S)
            assert await asyncio.to_thread(agent.process.wait, LIMIT_S) == 0
            host.close()

    run_async(scenario(), LIMIT_S)
