"""Pausing, limits, figures and execs into delegated trees, on a real agent and crun.

Of the controllers the machine's cgroup v2 may have few; those that need more are shown in the guest (tests/vm).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from pathlib import Path

import pytest

from kata_protocols.gen import oci_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, fresh_id, native_agent, oci_spec
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

TICKING = "while :; do echo tick; sleep 0.01; done"


async def refusal(work) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await work
    return caught.value


def group_of(agent: NativeAgent, container_id: str) -> Path:
    """The container's cgroup, as the agent sees it."""
    return Path(f"/proc/{agent.agent_pid()}/root/sys/fs/cgroup/{container_id}")


def is_frozen(agent: NativeAgent, container_id: str) -> bool:
    return "frozen 1" in (group_of(agent, container_id) / "cgroup.events").read_text()


def wait_frozen(group: Path) -> None:
    """A process freezes when it is its turn to run; the kernel tells when all have."""
    with open(group / "cgroup.events", encoding="ascii") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "frozen 1" not in events.read():
            assert poll.poll(15_000), "not frozen"
            events.seek(0)


@pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"])
def test_a_paused_container_stands_still_and_a_resumed_one_goes_on(tmp_path, supervised):
    async def body():
        async with native_agent(tmp_path, supervised=supervised) as agent:
            container = await agent.run("sh", "-c", TICKING)
            await agent.read(container)
            await agent.call("PauseContainer", container_id=container)
            assert is_frozen(agent, container)
            await agent.call("ResumeContainer", container_id=container)
            assert not is_frozen(agent, container)
            for _ in range(50):  # more than the pipe had
                await agent.read(container, limit=5)

    run_async(body())


def test_wrong_states_are_refused_with_the_texts_that_hosts_know(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            error = await refusal(agent.call("ResumeContainer", container_id=container))
            assert "not paused" in error.message
            await agent.call("PauseContainer", container_id=container)
            error = await refusal(agent.call("PauseContainer", container_id=container))
            assert "failed to pause container" in error.message
            for name in ("PauseContainer", "ResumeContainer", "StatsContainer", "UpdateContainer"):
                error = await refusal(agent.call(name, container_id="unknown"))
                assert (error.code, error.message) == (Code.INVALID_ARGUMENT, '"invalid container id"')

    run_async(body())


def test_exec_into_a_paused_container_is_refused_at_once(tmp_path):
    """Kata's agent hangs, and every call after it (spec 7.2, 12)."""

    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            await agent.call("PauseContainer", container_id=container)
            async with asyncio.timeout(15):
                error = await refusal(agent.exec(container, "e", "true"))
            assert f"failed to exec container {container}: it is paused" in error.message
            await agent.call("ResumeContainer", container_id=container)
            await agent.exec(container, "e", "true")
            assert await agent.wait(container, "e") == 0

    run_async(body())


def test_a_pause_waits_for_execs_under_way(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            async with asyncio.TaskGroup() as group:
                execs = [group.create_task(_try_exec(agent, container, f"e{n}")) for n in range(8)]
                await asyncio.sleep(0)
                group.create_task(agent.call("PauseContainer", container_id=container))
            assert is_frozen(agent, container)
            assert all(text == "" or "is paused" in text for text in [task.result() for task in execs])

    run_async(body())


async def _try_exec(agent: NativeAgent, container: str, exec_id: str) -> str:
    try:
        await agent.exec(container, exec_id, "sleep", "1000")
    except StatusError as error:
        return error.message
    return ""


def test_a_container_paused_before_its_start_can_still_be_started(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = fresh_id()
            await agent.create(container, "sh", "-c", "exit 3")
            await agent.call("PauseContainer", container_id=container)
            error = await refusal(agent.call("StartContainer", container_id=container))
            assert "paused before its start" in error.message
            await agent.call("ResumeContainer", container_id=container)
            await agent.call("StartContainer", container_id=container)
            assert await agent.wait(container) == 3

    run_async(body())


def test_a_signal_to_all_of_a_paused_container_leaves_it_frozen(tmp_path):
    """Kata's agent thaws it (spec 7.2, 23)."""

    async def body():
        async with native_agent(tmp_path) as agent:
            script = "trap 'echo caught' USR1; echo ready; while :; do sleep 0.02; done"
            container = await agent.run("sh", "-c", script)
            assert await agent.read(container) == b"ready\n"
            await agent.call("PauseContainer", container_id=container)
            await agent.call("SignalProcess", container_id=container, signal=signal.SIGUSR1)
            assert is_frozen(agent, container)
            await agent.call("ResumeContainer", container_id=container)
            assert await agent.read(container) == b"caught\n"

    run_async(body())


@pytest.mark.parametrize("everyone", [True, False], ids=["all", "one"])
def test_sigkill_ends_a_paused_container(tmp_path, everyone):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            await agent.call("PauseContainer", container_id=container)
            exec_id = "" if everyone else container
            await agent.call("SignalProcess", container_id=container, exec_id=exec_id, signal=signal.SIGKILL)
            assert await agent.wait(container) == signal.SIGKILL

    run_async(body())


def test_a_paused_container_can_be_removed(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sh", "-c", TICKING)
            await agent.call("PauseContainer", container_id=container)
            group = group_of(agent, container)
            await agent.remove(container)
            assert not group.exists()

    run_async(body())


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_a_container_is_paused_still_after_the_agent_was_killed(tmp_path, recorded):
    async def body():
        async with native_agent(tmp_path, supervised=True) as agent:
            container = await agent.run("sleep", "1000")
            if recorded:
                await agent.call("PauseContainer", container_id=container)
            else:  # killed between the freezer and the record
                (group_of(agent, container) / "cgroup.freeze").write_text("1")
                await asyncio.to_thread(wait_frozen, group_of(agent, container))
            client = await agent.client()
            os.kill(agent.agent_pid(), signal.SIGKILL)
            await client.wait_closed()
            error = await refusal(agent.call("PauseContainer", container_id=container))
            assert "it is paused" in error.message
            assert is_frozen(agent, container)
            await agent.call("ResumeContainer", container_id=container)
            await agent.exec(container, "e", "true")
            assert await agent.wait(container, "e") == 0

    run_async(body())


def test_figures_have_what_the_controllers_tell_and_wait_for_nobody(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run(
                "sh", "-c", "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; sleep 1000"
            )
            found = (await agent.call("StatsContainer", container_id=container)).cgroup_stats
            assert found.cpu_stats.cpu_usage.total_usage > 0
            controllers = (group_of(agent, container) / "cgroup.controllers").read_text().split()
            assert found.HasField("memory_stats") == ("memory" in controllers)
            assert found.HasField("pids_stats") == ("pids" in controllers)
            assert bool(found.hugetlb_stats) == ("hugetlb" in controllers)

    run_async(body())


@pytest.mark.requires("cgroup2:hugetlb")
def test_an_update_changes_the_limits_it_names_and_none_when_one_fails(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = await agent.run("sleep", "1000")
            file = group_of(agent, container) / "hugetlb.2MB.max"
            before = file.read_text()
            await agent.call("UpdateContainer", container_id=container)
            assert file.read_text() == before
            limit = oci_pb2.LinuxHugepageLimit(Pagesize="2MB", Limit=8 << 20)
            await update(agent, container, HugepageLimits=[limit])
            assert file.read_text() == f"{8 << 20}\n"
            too_much = oci_pb2.LinuxHugepageLimit(Pagesize="3MB", Limit=1)
            error = await refusal(update(agent, container, HugepageLimits=[limit, too_much]))
            assert "huge pages of '3MB'" in error.message
            error = await refusal(update(agent, container, Memory=oci_pb2.LinuxMemory(Swappiness=60)))
            assert "memory swappiness" in error.message

    run_async(body())


async def update(agent: NativeAgent, container: str, **resources) -> None:
    await agent.call("UpdateContainer", container_id=container, resources=oci_pb2.LinuxResources(**resources))


def test_device_rules_can_be_replaced_in_a_running_container(tmp_path):
    async def body():
        async with native_agent(tmp_path) as agent:
            container = fresh_id()
            spec = oci_spec("sleep", "1000")
            spec.Linux.Devices.add(Path="/dev/probe", Type="c", Major=10, Minor=253, FileMode=0o666)
            await agent.call("CreateContainer", container_id=container, OCI=spec)
            agent.made.append(container)
            await agent.call("StartContainer", container_id=container)
            rule = oci_pb2.LinuxDeviceCgroup(Allow=True, Type="c", Major=10, Minor=253, Access="rw")
            assert "not permitted" in await open_probe(agent, container, "before")
            await update(agent, container, Devices=[rule])
            assert "not permitted" not in await open_probe(agent, container, "allowed")
            await update(agent, container, Devices=[oci_pb2.LinuxDeviceCgroup(Allow=False, Access="rwm")])
            assert "not permitted" in await open_probe(agent, container, "after")

    run_async(body())


async def open_probe(agent: NativeAgent, container: str, exec_id: str) -> str:
    """What opening the device says: nothing has its number, so at best that."""
    await agent.exec(container, exec_id, "sh", "-c", "cat /dev/probe 2>&1")
    output, _ = await agent.read_all(container, exec_id)
    return output.decode()


@pytest.mark.requires("cgroup2:hugetlb")
def test_exec_works_in_a_container_that_delegates_its_controllers(tmp_path):
    """As systemd and docker do inside: processes in groups below, controllers on, so the group itself has none."""
    script = """
        cd /sys/fs/cgroup && mkdir init other && echo 1 >init/cgroup.procs &&
        echo +hugetlb >cgroup.subtree_control && echo ready && sleep 1000
    """

    async def body():
        async with native_agent(tmp_path) as agent:
            container = fresh_id()
            spec = oci_spec("sh", "-c", script)
            spec.Mounts.add(destination="/sys", type="tmpfs", source="tmpfs")
            spec.Mounts.add(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=["rw"])
            await agent.call("CreateContainer", container_id=container, OCI=spec)
            agent.made.append(container)
            await agent.call("StartContainer", container_id=container)
            assert await agent.read(container) == b"ready\n"
            assert "hugetlb" in (group_of(agent, container) / "cgroup.subtree_control").read_text()
            await agent.exec(container, "e", "cat", "/proc/self/cgroup")
            assert b"0::/init\n" in (await agent.read_all(container, "e"))[0]
            assert await agent.wait(container, "e") == 0
            await agent.call("PauseContainer", container_id=container)
            await agent.call("ResumeContainer", container_id=container)
            group = group_of(agent, container)
            await agent.remove(container)
            assert not group.exists()

    run_async(body())
