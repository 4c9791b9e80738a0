"""The agent is killed while a container prints: PID 1 starts it again, and the container never notices.

A process inside a container cannot name the agent in a signal: it lives in a descendant's pid namespace. So the kernel
is asked to do it: the agent is made the first choice of the out-of-memory killer, which is then called by hand
(sysrq f). It is a SIGKILL like any other.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from kata_host.spec import CAPABILITIES, BindMount
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.aio.client import ConnectionLostError
from kata_testing.guest import Guest, plan

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

GUEST_PROC = BindMount("/proc", "/guest-proc", ("rbind", "rw"))
SHARE = BindMount(GUEST_SHARE, "/share", ("rbind", "ro"))

KILL_AGENT = """
for p in /guest-proc/[0-9]*; do
  read -r name < $p/comm && [ "$name" = kata-agent ] && echo 1000 > $p/oom_score_adj
done
echo f > /guest-proc/sysrq-trigger
"""

COUNT_UNTIL_TOLD = """
n=0
while [ ! -e /share/stop ]; do
  m=0
  while [ $m -lt 200 ]; do echo line $n; n=$((n+1)); m=$((m+1)); done
done
echo end $n
exit 5
"""

PRINTED_BEFORE = 40_000
PRINTED_AFTER = 200_000


async def kill_agent(guest: Guest) -> None:
    """Return when the agent that we talk to is dead."""
    capabilities = [*CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    spec = plan("sh", "-c", KILL_AGENT, binds=[GUEST_PROC], masked=False, capabilities=capabilities)
    async with guest.connect() as sandbox:
        with suppress(ConnectionLostError):  # it may die before it has answered
            container = await sandbox.create(spec, "the-killer-container")
            await container.start()
            await container.wait(30)
    async with guest.connect() as sandbox:
        await sandbox.client.check()


def test_kill_9_of_the_agent_loses_no_byte_and_no_exit_status(guest: Guest, expects_oom_report: None) -> None:
    async def run() -> tuple[int, bytes]:
        received = bytearray()
        before, after = asyncio.Event(), asyncio.Event()
        limit = float("inf")
        async with guest.connect(reconnect=True) as sandbox:
            container = await sandbox.create(plan("sh", "-c", COUNT_UNTIL_TOLD, binds=[SHARE]))
            await container.start()
            async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                waiting = group.create_task(container.wait())

                async def read() -> None:
                    async for data in container.read_stdout():
                        received.extend(data)
                        if len(received) > PRINTED_BEFORE:
                            before.set()
                        if len(received) > limit:
                            after.set()

                group.create_task(read())
                await before.wait()
                await kill_agent(guest)
                limit = len(received) + PRINTED_AFTER
                await after.wait()
                (guest.share / "stop").touch()
            await container.remove()
            return waiting.result(), bytes(received)

    status, output = asyncio.run(run())
    lines = output.decode().split("\n")
    count = int(lines[-2].removeprefix("end "))
    assert lines[:-2] == [f"line {n}" for n in range(count)]
    assert (status, lines[-1]) == (5, "")
    console = guest.console.read_text(errors="replace")
    assert "(kata-agent)" in console, "the agent was never killed"
