"""The chaos load against the agent of a real guest, and the way to kill that agent.

The killer is a container that joins the guest's own pid namespace, where the agent has a pid that a process can name;
it waits for a line on its standard input, so that one container does for every kill.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from kata_host.message_json import fill_message
from kata_host.spec import CAPABILITIES
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.aio.address import UnixAddress, parse_address
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import oci_pb2
from kata_testing.chaos import Chaos
from kata_testing.guest import Guest, plan
from kata_testing.native import NativeAgent, fresh_id

# PID 1's children by this name: not a child of the agent that is not yet the program it is to become.
KILL_AT_EACH_LINE = """
while read -r line; do
  for p in /proc/[0-9]*; do
    read -r pid name state ppid rest < $p/stat || continue
    [ "$name $ppid" = "(kata-agent) 1" ] && kill -9 $pid
  done
done
"""
CALL_TIMEOUT_S = 120.0


class GuestAgent(NativeAgent):
    """The agent of a guest, as the native torture tests see one."""

    def __init__(self, guest: Guest) -> None:
        # neither a process nor a log of its own: the machine is somebody else's
        super().__init__(
            cast("object", None),  # type: ignore[arg-type]
            cast("UnixAddress", parse_address(guest.address)),
            guest.console,
            supervised=True,
        )
        self.root = f"{GUEST_SHARE}busybox"


class Killer:
    """A container that kills the agent when it is told to."""

    def __init__(self, agent: GuestAgent, container_id: str) -> None:
        self._agent = agent
        self._container_id = container_id

    async def kill(self) -> None:
        """Return when the agent that was asked is dead."""
        client = await self._agent.client()
        try:
            await self._agent.call("WriteStdin", container_id=self._container_id, data=b"kill\n")
        except ConnectionLostError:
            pass  # it may die before it has answered
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await client.wait_closed()


@asynccontextmanager
async def start_killer(guest: Guest) -> AsyncIterator[Killer]:
    """Have one; removed at the end."""
    agent = GuestAgent(guest)
    container_id = fresh_id("killer")
    spec = plan("sh", "-c", KILL_AT_EACH_LINE, capabilities=[*CAPABILITIES, "CAP_SYS_ADMIN"])
    namespaces = cast("dict[str, list[dict[str, str]]]", spec["linux"])["namespaces"]
    next(entry for entry in namespaces if entry["type"] == "pid")["path"] = "/proc/1/ns/pid"
    message = oci_pb2.Spec()
    fill_message(message, spec)
    await agent.call("CreateContainer", container_id=container_id, OCI=message)
    await agent.call("StartContainer", container_id=container_id)
    try:
        yield Killer(agent, container_id)
    finally:
        await agent.call("RemoveContainer", container_id=container_id)
        await agent.close_clients()


class GuestChaos(Chaos):
    """The load, with fewer lines as the guest's processor is emulated."""

    most_lines = 5_000

    def __init__(self, guest: Guest, killer: Killer, *, seed: int, kills: int) -> None:
        agent = GuestAgent(guest)
        super().__init__(agent, seed=seed, kills=kills, folder=Path(guest.share) / "busybox/tmp")
        self._killer = killer

    async def _kill(self) -> bool:
        await self._killer.kill()
        return True

    async def close(self) -> None:
        """Close every connection."""
        await self._agent.close_clients()
