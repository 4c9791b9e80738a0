"""The agent of a real guest is replaced while a container prints; and refuses what does not know its state."""

from __future__ import annotations

import asyncio
import zipfile
from pathlib import Path

import pytest

from kata_host.spec import BindMount
from kata_host.vm.base import GUEST_SHARE
from kata_testing.guest import Guest, plan, read_agent_life, run_tool
from kata_testing.repository import GUEST

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

SHARE = BindMount(GUEST_SHARE, "/share", ("rbind", "ro"))
COUNT_UNTIL_TOLD = """
n=0
while [ ! -e /share/upgraded ]; do
  m=0
  while [ $m -lt 200 ]; do echo line $n; n=$((n+1)); m=$((m+1)); done
done
echo end $n
exit 5
"""
DEADLINE_S = 240.0
PRINTED_AFTER = 100_000
ARCHIVE = GUEST / "agent.zip"
VERSION = "kata_agent/version"


def change_version(folder: Path) -> Path:
    """The image's own agent, but one that knows another version of the state."""
    changed = folder / "changed.zip"
    with zipfile.ZipFile(ARCHIVE) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            if entry.filename != f"{VERSION}.pyc":
                new.writestr(entry, old.read(entry))
        constants = (
            'API_VERSION = AGENT_VERSION = PROJECT_VERSION = "9"\nSTATE_VERSION = 9\nSTATE_KNOWN = (9,)\n'
        )
        new.writestr(f"{VERSION}.py", constants)
    return changed


def test_an_upgrade_under_load_loses_no_byte_and_code_of_another_state_is_refused(
    guest: Guest, tmp_path: Path
) -> None:
    def use_tool(*words: str) -> tuple[int, str]:
        done = run_tool("upgrade", *words, "--server-address", guest.address, vm_dir=guest.vm_dir)
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    async def run() -> tuple[int, bytes]:
        received = bytearray()
        limit, after = float("inf"), asyncio.Event()
        async with guest.connect(reconnect=True) as sandbox:
            container = await sandbox.create(plan("sh", "-c", COUNT_UNTIL_TOLD, binds=[SHARE]))
            await container.start()
            async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                waiting = group.create_task(container.wait())

                async def read() -> None:
                    async for data in container.read_stdout():
                        received.extend(data)
                        if len(received) > limit:
                            after.set()

                group.create_task(read())
                life = await read_agent_life(guest)
                status, told = await asyncio.to_thread(use_tool, str(change_version(tmp_path)))
                assert status == 1, told
                assert "this agent goes on: the agent's state has version 1, this agent knows 9" in told
                assert await read_agent_life(guest) == life, "the agent was started anew"
                status, told = await asyncio.to_thread(use_tool, str(ARCHIVE))
                assert status == 0, told
                assert f"life {life + 1}, running from /run/kata-agent/code/{life}.2" in told
                limit = len(received) + PRINTED_AFTER
                await after.wait()
                (guest.share / "upgraded").touch()
            await container.remove()
            return waiting.result(), bytes(received)

    status, output = asyncio.run(run())
    lines = output.decode().split("\n")
    count = int(lines[-2].removeprefix("end "))
    assert lines[:-2] == [f"line {n}" for n in range(count)]
    assert (status, lines[-1]) == (5, "")
