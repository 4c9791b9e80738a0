"""Thousands of execs and dozens of containers leave nothing behind, and one slow container slows nobody else.

KATA_TEST_EXECS says how many execs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata_protocols.gen import oci_pb2
from kata_testing.chaos import read_traces, wait_no_leaks
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent, oci_spec

pytestmark = pytest.mark.requires(*NEEDS)

EXECS = int(os.environ.get("KATA_TEST_EXECS", "10000"))
WARM_EXECS = 1500
"""The bound on kept execs is filled by then, and the allocator has what it holds under this load; 0.6 MB come from 300
to 8000, half of it before this."""
LANES = 4
CONTAINERS = 50
GROWTH_LIMIT_BYTES = 1 << 20
SAMPLES = 300
TURNS = 7
ATTEMPTS = 3
SLOWER = 2.0


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
            await exec_many(agent, container, WARM_EXECS)
            before, memory = read_traces(agent), read_anonymous_bytes(agent.agent_pid())
            await exec_many(agent, container, EXECS)
            assert await wait_no_leaks(agent, before) == []
            grown = read_anonymous_bytes(agent.agent_pid()) - memory
            assert grown < GROWTH_LIMIT_BYTES, f"{grown} bytes grown over {EXECS} execs"

    run_bounded(body(), 60 + (WARM_EXECS + EXECS) / 20)


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
    """Of the container's statistics, asked for one after the other, in seconds."""
    times = []
    for _ in range(SAMPLES):
        begin = time.perf_counter()
        await agent.call("StatsContainer", container_id=container)
        times.append(time.perf_counter() - begin)
    return sorted(times)[int(len(times) * 0.99)]


async def measure_with_hook(agent: NativeAgent, other: NativeAgent, container: str, folder: Path) -> float:
    """The same while the hook of another container's create sleeps; the create is over when this returns."""
    entered, leave = folder / "entered", folder / "leave"
    for path in (entered, leave):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    spec = oci_spec("true")
    script = f"echo > {entered}; read x < {leave}"
    spec.Hooks.Prestart.append(oci_pb2.Hook(Path="/bin/sh", Args=["sh", "-c", script], Timeout=60))
    slow = fresh_id("slow")
    async with asyncio.TaskGroup() as group:
        create = group.create_task(other.call("CreateContainer", container_id=slow, OCI=spec, timeout_s=60))
        await asyncio.to_thread(entered.read_text)
        figure = await measure_p99(agent, container)
        assert not create.done(), "the hook did not sleep"
        await asyncio.to_thread(leave.write_text, "now\n")
    await other.call("RemoveContainer", container_id=slow)
    return figure


def test_one_container_s_sleeping_hook_delays_nobody_else_s_statistics(tmp_path):
    """p99 with the hook against p99 without, in turns, so that whatever else the machine does meets both.

    Each turn has its p99, and the medians of the turns are compared: one turn that the machine has spoilt decides
    nothing. Whatever a sleeping hook really delayed would be in every turn of every attempt.
    """

    async def compare(agent: NativeAgent, other: NativeAgent, container: str) -> tuple[float, float]:
        idle, busy = [], []
        for _ in range(TURNS):
            idle.append(await measure_p99(agent, container))
            busy.append(await measure_with_hook(agent, other, container, tmp_path))
        return statistics.median(idle), statistics.median(busy)

    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            other = agent.another()
            await measure_with_hook(agent, other, container, tmp_path)
            seen = []
            for _ in range(ATTEMPTS):
                idle, busy = await compare(agent, other, container)
                seen.append(f"idle {idle * 1e3:.2f} ms, with a hook {busy * 1e3:.2f} ms")
                if busy <= SLOWER * idle:
                    return
            raise AssertionError(
                f"p99 of statistics is more than {SLOWER:g} times as long: {'; '.join(seen)}"
            )

    run_bounded(body(), 120)
