"""A guest out of memory loses a container, not its agent, and says which."""

from __future__ import annotations

import asyncio

import pytest

from kata_host.spec import CAPABILITIES, BindMount
from kata_testing.guest import Guest, plan, read_agent_life, read_all, run_tool

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 90.0
GUEST_PROC = BindMount("/proc", "/guest-proc", ("rbind", "ro"))
SHOW_PROTECTION = """
for p in /guest-proc/[0-9]*; do
  read -r name < $p/comm || continue
  [ "$name" = kata-agent ] && echo agent $(grep ^0:: $p/cgroup) $(cat $p/oom_score_adj)
done
echo init $(grep ^0:: /guest-proc/1/cgroup)
echo low $(cat /guest-proc/1/root/sys/fs/cgroup/kata-agent/memory.low)
echo panic $(cat /guest-proc/sys/vm/panic_on_oom)
"""
EATER = ("tail", "/dev/zero")
"""Looks for the end of a line that never ends."""


def test_a_guest_out_of_memory_kills_the_container_without_a_limit_and_not_the_agent(
    guest: Guest, expects_oom_report: None
) -> None:
    async def run() -> str:
        before = await read_agent_life(guest)
        async with asyncio.timeout(DEADLINE_S), guest.connect() as sandbox:
            async with sandbox.container(plan(*EATER)) as container:
                await container.start()
                assert await container.wait() == 9
                await sandbox.client.check()
            assert await read_agent_life(guest) == before, "the agent was started anew"
            return container.container_id

    container = asyncio.run(run())
    told = run_tool("why", container, "--server-address", guest.address, vm_dir=guest.vm_dir).stdout.decode()
    assert "no memory was left within its limit, or in the guest" in told.splitlines()[0]


def test_pid_1_and_the_agent_have_a_cgroup_of_their_own_whose_memory_goes_last(guest: Guest) -> None:
    async def run() -> tuple[int, bytes, bytes]:
        capabilities = [*CAPABILITIES, "CAP_SYS_PTRACE"]
        async with asyncio.timeout(DEADLINE_S), guest.connect() as sandbox:
            spec = plan(
                "sh", "-c", SHOW_PROTECTION, binds=[GUEST_PROC], masked=False, capabilities=capabilities
            )
            async with sandbox.container(spec) as container:
                await container.start()
                output, errors = await read_all(container), await read_all(container, stderr=True)
                return await container.wait(), output, errors

    status, output, errors = asyncio.run(run())
    assert status == 0, errors.decode()
    assert output.decode().splitlines() == [
        "agent 0::/../kata-agent -997",
        "init 0::/../kata-agent",
        f"low {64 << 20}",
        "panic 0",
    ]
