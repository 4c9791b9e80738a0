"""Thousands of execs and dozens of containers leave nothing behind, and one slow container slows nobody else.

KATA_TEST_EXECS says how many execs; `scripts/bench soak` does ten thousand.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata_protocols.gen import oci_pb2
from kata_testing.chaos import read_traces, wait_no_leaks
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent, oci_spec

pytestmark = pytest.mark.requires(*NEEDS)

EXECS = int(os.environ.get("KATA_TEST_EXECS", "2000"))
WARM_EXECS = 300
LANES = 4
CONTAINERS = 50
GROWTH_LIMIT_BYTES = 1 << 20
CHECKS = 150
HOOK_SLEEP_S = 2
SLOWER = 2.0
FLOOR_S = 0.01
"""On a machine with two busy cores a turn of the scheduler is milliseconds, whatever the agent does."""


def run_bounded(work: Coroutine[Any, Any, None], limit_s: float) -> None:
    """Run a test's coroutine; a hang is a failure."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await work

    asyncio.run(bounded())


def read_anonymous_bytes(pid: int) -> int:
    """Memory that is the process's own."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in rollup if line.startswith("Anonymous:")))


async def exec_many(agent: NativeAgent, container: str, count: int) -> None:
    """Execs whose status and output are looked at, several at a time."""
    numbers = iter(range(count))

    async def lane(mine: NativeAgent) -> None:
        for number in numbers:
            exec_id = fresh_id("e")
            await mine.exec(container, exec_id, "sh", "-c", f"echo {number}; exit {number % 256}")
            assert await mine.wait(container, exec_id) == number % 256
            assert (await mine.read_all(container, exec_id))[0] == b"%d\n" % number

    async with asyncio.TaskGroup() as group:
        for _ in range(LANES):
            group.create_task(lane(agent.another()))


def test_execs_leave_no_descriptor_zombie_cgroup_or_mount_and_memory_stays_flat(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            await exec_many(agent, container, WARM_EXECS)  # until then the bound on kept execs is filled
            before, memory = read_traces(agent), read_anonymous_bytes(agent.agent_pid())
            await exec_many(agent, container, EXECS)
            assert await wait_no_leaks(agent, before) == []
            grown = read_anonymous_bytes(agent.agent_pid()) - memory
            assert grown < GROWTH_LIMIT_BYTES, f"{grown} bytes grown over {EXECS} execs"

    run_bounded(body(), 60 + EXECS / 20)


def test_fifty_containers_at_once_are_made_signalled_and_removed_without_a_trace(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            warm = await agent.run("true")
            await agent.wait(warm)
            await agent.remove(warm)
            before = read_traces(agent)

            async def live(number: int) -> None:
                mine = agent.another()
                container = await mine.run(
                    "sh", "-c", f"trap 'exit {number}' TERM; echo up; while :; do sleep 9 & wait; done"
                )
                assert await mine.read(container) == b"up\n"
                await mine.call(
                    "SignalProcess", container_id=container, exec_id=container, signal=signal.SIGTERM
                )
                assert await mine.wait(container) == number
                await mine.remove(container)

            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for number in range(CONTAINERS):
                    group.create_task(live(number))
            assert await wait_no_leaks(agent, before) == []

    asyncio.run(body())


async def measure_p99(agent: NativeAgent, container: str) -> float:
    """Of a Check and a read that has an answer, one after the other, in seconds."""
    times = []
    for _ in range(CHECKS):
        begin = time.perf_counter()
        await agent.check()
        await agent.read(container, limit=10)
        times.append(time.perf_counter() - begin)
    return sorted(times)[int(len(times) * 0.99)]


def test_one_container_s_sleeping_hook_delays_nobody_else_s_reads_and_checks(tmp_path):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            talker = await agent.run("sh", "-c", "while :; do echo 0123456789; done")
            await measure_p99(agent, talker)
            idle = min([await measure_p99(agent, talker) for _ in range(3)])
            slow = fresh_id("slow")
            spec = oci_spec("true")
            hook = oci_pb2.Hook(
                Path="/bin/sleep", Args=["sleep", str(HOOK_SLEEP_S)], Timeout=HOOK_SLEEP_S * 10
            )
            spec.Hooks.Prestart.append(hook)
            other = agent.another()
            async with asyncio.TaskGroup() as group:
                create = group.create_task(
                    other.call("CreateContainer", container_id=slow, OCI=spec, timeout_s=60)
                )
                busy = []
                for _ in itertools.count():
                    figure = await measure_p99(agent, talker)
                    if create.done():
                        break
                    busy.append(figure)
                agent.made.append(slow)
                await create
            assert busy, "the hook did not sleep"
            assert min(busy) < max(SLOWER * idle, FLOOR_S), (
                f"idle {idle * 1e3:.2f} ms, with a hook {min(busy) * 1e3:.2f} ms"
            )

    run_bounded(body(), 60)
