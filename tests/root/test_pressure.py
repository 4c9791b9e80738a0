"""Pressure as the machine's own kernel tells it: of all of it, of one container, not more often than is held."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from kata_agent.cgroups.pressure import Met, PressureWatch, parse_limits
from kata_protocols import services
from kata_protocols.gen import sandbox_pb2 as pb
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS, "psi")

BUSY = 2 * (os.cpu_count() or 1)
"""More than there are processors: some of them wait."""
EACH_TIME = "cpu:1/2000"
"""Windows of whole 2 s are what anybody may ask for, without CAP_SYS_RESOURCE."""


def test_a_limit_that_is_met_again_and_again_is_told_at_the_hold_with_what_was_missed():
    async def body():
        told: asyncio.Queue[Met] = asyncio.Queue()

        def fail(what: str, error: BaseException) -> None:
            raise AssertionError(what) from error

        watch = PressureWatch(
            parse_limits(EACH_TIME),
            tell=told.put_nowait,
            report=fail,
            hold_s=3.0,  # longer than a window; the kernel passes over one now and then, when its clock is early
        )
        busy = [await asyncio.create_subprocess_exec("yes", stdout=subprocess.DEVNULL) for _ in range(BUSY)]
        try:
            first = later = await told.get()
            while not later.missed:
                later = await told.get()
        finally:
            watch.close()
            for process in busy:
                process.kill()
                await process.wait()
        assert (first.container_id, first.limit, first.missed) == ("", parse_limits(EACH_TIME)[0], 0)
        assert later.average > 0

    run_async(body())


async def find_pressure(agent: NativeAgent, container: str, cursor: str = "") -> pb.Event:
    """The first event of this container's pressure."""
    while True:
        method = services.SANDBOX_SERVICE.methods["PollEvents"]
        request = pb.PollEventsRequest(cursor=cursor, container_id=container, wait_ms=30_000)
        answer = await (await agent.client()).call(method, request, timeout_s=60)
        for event in answer.events:
            if event.kind == pb.PRESSURE:
                return event
        cursor = answer.cursor


def test_a_container_s_own_pressure_is_told_also_by_the_agent_after_a_killed_one(tmp_path):
    async def body():
        script = f"for i in $(seq {BUSY}); do while :; do :; done & done; wait"
        async with native_agent(
            tmp_path, supervised=True, environment={"KATA_AGENT_PRESSURE": EACH_TIME}
        ) as agent:
            container = await agent.run("sh", "-c", script)
            event = await find_pressure(agent, container)
            assert (event.pressure.resource, event.pressure.window_us) == ("cpu", 2_000_000)
            before = agent.open_fds()
            client = await agent.client()
            os.kill(agent.agent_pid(), 9)
            await client.wait_closed()
            await agent.check()
            await find_pressure(agent, container, event.cursor)
            assert len(agent.open_fds()) <= len(before)
            await agent.remove(container)

    run_async(body(), 90)


def test_nothing_is_watched_unless_it_is_asked_for(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            await agent.run("sleep", "1000")
            assert [name for name in agent.open_fds() if "pressure" in name] == []

    run_async(body())
