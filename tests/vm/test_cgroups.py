"""Limits, figures, pausing and out-of-memory events where every controller is: in the guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kata_host.connect import open_caller
from kata_host.message_json import fill_message
from kata_host.sandbox import Container, Sandbox
from kata_host.sandbox_service import SandboxService
from kata_host.spec import CAPABILITIES, BindMount, ProcessPlan, plan_process
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.guest import Guest, plan, read_all, run_container

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

MIB = 1 << 20
DEADLINE_S = 60.0
FILL = "dd if=/dev/zero of=/tmp/file bs=1M count=24 2>/dev/null; echo $?; "


@asynccontextmanager
async def running(
    sandbox: Sandbox, script: str, *, mounts: tuple[dict[str, object], ...] = (), **resources: Any
) -> AsyncIterator[Container]:
    """A container of a shell script with limits."""
    spec: Any = plan("sh", "-c", script)
    spec["linux"]["resources"] = resources
    spec["mounts"] += mounts
    async with asyncio.timeout(DEADLINE_S), sandbox.container(spec) as container:
        await container.start()
        yield container


async def read_stats(container: Container) -> pb.CgroupStats:
    request = pb.StatsContainerRequest(container_id=container.container_id)
    return (await container.client.stats_container(request)).cgroup_stats


async def update(container: Container, **resources: Any) -> None:
    request = pb.UpdateContainerRequest(container_id=container.container_id)
    fill_message(request.resources, resources)
    await container.client.update_container(request)


async def read_line(container: Container) -> bytes:
    request = pb.ReadStreamRequest(container_id=container.container_id, exec_id=container.exec_id, len=4096)
    return bytes((await container.client.read_stdout(request)).data)


def test_a_container_over_its_memory_limit_is_told_until_the_limit_is_raised(
    guest: Guest, expects_oom_report: None
) -> None:
    async def run() -> tuple[str, str, bytes, int, bytes, list[str]]:
        memory = {"Limit": 16 * MIB, "Swap": 16 * MIB}
        async with guest.connect() as sandbox, guest.connect() as other, asyncio.TaskGroup() as group:
            event = group.create_task(other.client.get_oom_event(timeout_s=DEADLINE_S))
            async with (
                running(sandbox, "sleep 1000", Memory=memory),
                running(sandbox, FILL + "read line; " + FILL, Memory=memory) as container,
            ):
                before = await read_line(container)
                killed = (await event).container_id
                await update(container, Memory={"Limit": 64 * MIB, "Swap": 64 * MIB})
                limit = (await read_stats(container)).memory_stats.usage.limit
                await container.write_stdin(b"\n")
                after = await read_all(container)
                met = await read_limits_met(guest, container.container_id)
                return container.container_id, killed, before, limit, after, met

    name, killed, before, limit, after, met = asyncio.run(run())
    assert killed == name
    assert (before, after) == (b"137\n", b"0\n")
    assert limit == 64 * MIB
    assert set(met) == {f"/{name}"}


def test_a_guest_without_memory_kills_a_container_and_the_report_says_whose_limit_it_was_not(
    guest: Guest, expects_oom_report: None
) -> None:
    """The kernel is asked for what it does when nothing is left, and given a first choice."""
    script = "echo 1000 >/guest-proc/self/oom_score_adj; echo f >/guest-proc/sysrq-trigger; read line"
    capabilities = [*CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    bind = BindMount("/proc", "/guest-proc", ("rbind", "rw"))

    async def run() -> tuple[str, str, int, list[str]]:
        spec = plan("sh", "-c", script, binds=[bind], masked=False, capabilities=capabilities)
        async with (
            asyncio.timeout(DEADLINE_S),
            guest.connect() as sandbox,
            guest.connect() as other,
            sandbox.container(spec) as container,
        ):
            await container.start()
            killed = await other.client.get_oom_event(timeout_s=DEADLINE_S)
            status = await container.wait(30)
            met = await read_limits_met(guest, container.container_id)
            return container.container_id, killed.container_id, status, met

    name, killed, status, met = asyncio.run(run())
    assert (killed, status) == (name, 9)
    assert set(met) == {""}, "the guest itself had no memory left"


async def read_limits_met(guest: Guest, container_id: str) -> list[str]:
    """The groups whose limits were met, of each of the container's out-of-memory events; none for the guest itself.

    Not from the console: there the agent's lines wait for a serial line that the kernel writes its report to meanwhile.
    """
    async with await open_caller(guest.address) as caller:
        history = (await SandboxService(caller).why(container_id)).events
    return [event.oom.limit for event in history if event.HasField("oom")]


def test_a_cpu_quota_throttles_and_the_figures_say_how_long(guest: Guest) -> None:
    script = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); done; echo done; sleep 1000"

    async def run() -> pb.CgroupStats:
        limits = {"Quota": 10000, "Period": 100000}
        async with guest.connect() as sandbox, running(sandbox, script, CPU=limits) as container:
            await read_line(container)
            return await read_stats(container)

    cpu = asyncio.run(run()).cpu_stats
    assert cpu.throttling_data.throttled_periods > 0
    assert cpu.throttling_data.throttled_time > 1_000_000
    assert cpu.cpu_usage.total_usage > 1_000_000


def test_a_pids_limit_counts_and_figures_are_whole(guest: Guest) -> None:
    # A shell that cannot fork ends; the outer one and those that were started stay.
    script = "(sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 &); read line"

    async def run() -> pb.CgroupStats:
        limits: dict[str, Any] = {
            "Pids": {"Limit": 4},
            "CPU": {"Shares": 1024, "Cpus": "0", "Mems": "0"},
            "HugepageLimits": [{"Pagesize": "2MB", "Limit": 0}, {"Pagesize": "64KB", "Limit": 0}],
        }
        async with guest.connect() as sandbox, running(sandbox, script, **limits) as container:
            said = b""
            async for data in container.read_stderr():
                said += data
                if b"fork" in said:
                    return await read_stats(container)
        raise AssertionError(f"no fork was refused, but {said!r}")

    found = asyncio.run(run())
    assert found.pids_stats.limit == 4
    assert 3 <= found.pids_stats.current <= 4
    memory = found.memory_stats
    assert (
        0 < memory.usage.usage - memory.stats["inactive_file"] <= memory.usage.usage <= memory.usage.max_usage
    )
    assert memory.usage.limit == memory.swap_usage.limit == 2**64 - 1
    assert {"anon", "file", "kernel_stack", "slab", "pgmajfault", "active_file"} <= set(memory.stats)
    assert found.HasField("blkio_stats")
    assert {"2MB", "1GB"} <= set(found.hugetlb_stats)


def test_a_paused_container_uses_no_time(guest: Guest) -> None:
    """Its figure comes to stand still while another container runs from beginning to end, or the deadline ends this."""

    async def run() -> None:
        async with guest.connect() as sandbox, running(sandbox, "while :; do :; done") as container:
            request = pb.PauseContainerRequest(container_id=container.container_id)
            await container.client.pause_container(request)
            before, after = 0, await read_used(container)
            # The kernel calls it frozen a moment before it leaves its processor, which may be long for an emulated one.
            while before != after:
                before = after
                assert (await run_container(sandbox, "true"))[0] == 0
                after = await read_used(container)
            await container.client.resume_container(
                pb.ResumeContainerRequest(container_id=container.container_id)
            )
            while await read_used(container) <= after:
                pass

    asyncio.run(run())


async def read_used(container: Container) -> int:
    return (await read_stats(container)).cpu_stats.cpu_usage.total_usage


def test_exec_works_where_a_container_hands_its_controllers_down(guest: Guest) -> None:
    script = """
        cd /sys/fs/cgroup && mkdir init job && echo 1 >init/cgroup.procs &&
        echo "+memory +pids +cpu" >cgroup.subtree_control && echo ready && sleep 1000
    """
    mount: dict[str, object] = {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["rw", "nosuid", "noexec", "nodev"],
    }

    async def run() -> tuple[bytes, int]:
        async with guest.connect() as sandbox, running(sandbox, script, mounts=(mount,)) as container:
            assert await read_line(container) == b"ready\n"
            check = "cat /proc/self/cgroup; echo $$ >/sys/fs/cgroup/job/cgroup.procs && cat /proc/self/cgroup"
            process = await container.exec(plan_process(ProcessPlan(["sh", "-c", check])))
            return await read_all(process), await process.wait(30)

    assert asyncio.run(run()) == (b"0::/init\n0::/job\n", 0)


def test_the_groups_above_a_new_container_get_the_processors_that_it_asks_for(guest: Guest) -> None:
    """As after a hotplug: the group above knows only the processors that there were when it was made."""
    narrow = "/sys/fs/cgroup/narrow"
    look = f"cat {narrow}/cpuset.cpus {narrow}/inner/cpuset.cpus.effective"

    async def run() -> list[str]:
        seen = []
        admin: Any = plan(
            "sleep",
            "1000",
            binds=[BindMount("/sys/fs/cgroup", "/sys/fs/cgroup", ("rbind", "rw"))],
            masked=False,
        )
        async with asyncio.timeout(DEADLINE_S), guest.connect() as sandbox, sandbox.container(admin) as shell:
            await shell.start()

            async def do(script: str) -> str:
                process = await shell.exec(plan_process(ProcessPlan(["sh", "-c", f"{script} 2>&1"])))
                output = await read_all(process)
                assert await process.wait(30) == 0, output
                return output.decode()

            await do(f"mkdir {narrow} && echo 0 > {narrow}/cpuset.cpus")
            spec: Any = plan("sleep", "1000")
            spec["linux"]["cgroupsPath"] = "/narrow/inner"
            spec["linux"]["resources"] = {"CPU": {"Cpus": "0-1"}}
            async with sandbox.container(spec) as container:
                await container.start()
                seen += (await do(look)).split()
            await do(f"! [ -e {narrow}/inner ] && rmdir {narrow}")
        return seen

    assert asyncio.run(run()) == ["0-1", "0-1"]
