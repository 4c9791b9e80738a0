"""Our own service in a guest: an out-of-memory kill is told, laid to the exit it caused, and explained by the tool."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kata_host.connect import open_caller
from kata_host.sandbox_service import SandboxService
from kata_host.spec import BindMount
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.gen import sandbox_pb2 as pb
from kata_testing.guest import Guest, plan, run_tool

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

MIB = 1 << 20
DEADLINE_S = 60.0
SHARE = BindMount(GUEST_SHARE, "/share", ("rbind", "ro"))
# What fills a tmpfs is the container's memory; the shell is killed for it, being the only process there is.
GREEDY = "x=a; while :; do x=$x$x; done"


async def read_history(service: SandboxService, container: str, kind: int) -> list[str]:
    """The container's kinds of events up to the first of this kind."""
    seen: list[str] = []
    cursor = ""
    while True:
        answer = await service.poll_events(
            pb.PollEventsRequest(cursor=cursor, container_id=container, wait_ms=20000)
        )
        cursor = answer.cursor
        for event in answer.events:
            seen.append(pb.EventKind.Name(event.kind))
            if event.kind == kind:
                return seen


def test_an_out_of_memory_kill_is_told_and_explained(guest: Guest, expects_oom_report: None) -> None:
    async def run() -> tuple[str, list[str], pb.GetBootResponse]:
        spec: Any = plan("sh", "-c", GREEDY)
        spec["linux"]["resources"] = {"Memory": {"Limit": 16 * MIB, "Swap": 16 * MIB}}
        async with (
            asyncio.timeout(DEADLINE_S),
            await open_caller(guest.address) as client,
            guest.connect() as sandbox,
        ):
            service = SandboxService(client)
            async with sandbox.container(spec) as container:
                await container.start()
                assert await container.wait() == 9
                history = await read_history(service, container.container_id, pb.OOM)
            return container.container_id, history, await service.get_boot()

    container, history, boot = asyncio.run(run())
    assert set(history) >= {"CONTAINER_CREATED", "STARTED", "OOM"}
    assert "pid1 start" in [step.name for step in boot.steps]
    assert boot.supervised
    target = ("--server-address", guest.address)
    why = run_tool("why", container, *target, vm_dir=guest.vm_dir).stdout.decode().splitlines()
    assert why[0] == (
        f"{container} (removed): the kernel killed it (SIGKILL): no memory was left within its limit, or in the guest"
    )
    exits = run_tool("exits", container, "--json", "--vm", "shared", vm_dir=guest.vm_dir).stdout
    (end,) = [json.loads(line) for line in exits.splitlines()]
    assert (end["signal"], end["oom"]) == (9, True)


def test_pressure_for_memory_is_told_of_the_container_that_waits_and_of_the_guest(guest: Guest) -> None:
    """A group at its limit has to free pages before it gets one: the kernel counts that as waiting for memory."""
    with open(guest.share / "large", "wb") as file:
        file.truncate(64 * MIB)

    async def run() -> list[pb.Event]:
        spec: Any = plan("sh", "-c", "while :; do cat /share/large; done > /dev/null", binds=[SHARE])
        spec["linux"]["resources"] = {"Memory": {"Limit": 8 * MIB, "Swap": 8 * MIB}}
        async with (
            asyncio.timeout(DEADLINE_S),
            await open_caller(guest.address) as client,
            guest.connect() as sandbox,
            sandbox.container(spec) as container,
        ):
            service = SandboxService(client)
            await container.start()
            told: dict[str, pb.Event] = {}
            cursor = ""
            while len(told) < 2:
                answer = await service.poll_events(pb.PollEventsRequest(cursor=cursor, wait_ms=20000))
                cursor = answer.cursor
                for event in answer.events:
                    if event.kind == pb.PRESSURE and event.container_id in ("", container.container_id):
                        told[event.container_id] = event
            return list(told.values())

    try:
        told = asyncio.run(run())
    finally:
        (guest.share / "large").unlink()
    for event in told:
        assert (event.pressure.resource, event.pressure.stall_us, event.pressure.window_us) == (
            "memory", 1000, 500_000,
        )  # fmt: skip
