"""A guest out of memory loses a container, not its agent, and says which."""

from __future__ import annotations

import asyncio

import pytest

from kata_testing.guest import Guest, plan, read_agent_life, run_tool

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 90.0
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
