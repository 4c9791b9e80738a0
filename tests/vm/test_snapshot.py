"""Quiesce and Resumed in a guest: a disk that takes no more writes, a clock and random numbers set right."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from kata_host.connect import open_caller
from kata_host.sandbox import Sandbox
from kata_host.sandbox_service import SandboxService
from kata_host.spec import BindMount
from kata_protocols.gen import agent_pb2 as agent_pb
from kata_protocols.gen import sandbox_pb2 as pb
from kata_testing.guest import Guest, plan, run_container

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 90.0
DAY_S = 86400
TICK_S = 2.0
DISK = agent_pb.Storage(
    driver="blk",
    source="/dev/vda",
    fstype="ext4",
    mount_point="/run/kata-containers/sandbox/storage/quiesced",
)
# Long lines, so that few of them are more than pipes hold.
WRITE = (
    "line=$(head -c 4096 /dev/zero | tr '\\0' x); while :; do echo x > /mnt/file || exit 1; echo $line; done"
)


def notes(steps: Any) -> dict[str, str]:
    return {step.name: step.note for step in steps}


def resumed(time_ns: int = 0) -> pb.ResumedRequest:
    return pb.ResumedRequest(random=os.urandom(512), time_ns=time_ns)


def test_a_disk_is_frozen_with_who_writes_to_it_and_thaws(guest: Guest) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(DEADLINE_S),
            await open_caller(guest.address) as client,
            guest.connect() as sandbox,
        ):
            service = SandboxService(client)
            spec = plan("sh", "-c", WRITE, binds=[BindMount(DISK.mount_point, "/mnt", ("rbind", "rw"))])
            async with sandbox.container(spec, storages=[DISK]) as container:
                await container.start()
                output = container.read_stdout()
                assert b"xxx" in await anext(output)
                stopped = await service.quiesce(pb.QuiesceRequest(freeze_filesystems=True))
                assert list(stopped.containers) == [container.container_id]
                assert notes(stopped.steps)["freeze file systems"] == DISK.mount_point
                going = await service.resumed(resumed())
                assert notes(going.steps)["thaw file systems"] == DISK.mount_point
                # what was written before may still be in the pipe; more than it holds was written after
                read = 0
                async for data in output:
                    read += len(data)
                    if read > 1 << 20:
                        break

    asyncio.run(run())


async def check_clock(sandbox: Sandbox, began: float, ahead_s: int = 0) -> None:
    """The guest's clock, which was set since `began`, is so far ahead of ours."""
    _, said, _ = await run_container(sandbox, "date", "+%s")
    guest = int(said) - ahead_s
    # However long it takes: it is late by its way into the guest at most, and we read it after it was told.
    assert began - TICK_S <= guest <= time.time() + TICK_S


def test_the_clock_is_the_host_s_and_every_copy_has_a_generation_of_its_own(guest: Guest) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(DEADLINE_S),
            await open_caller(guest.address) as client,
            guest.connect() as sandbox,
        ):
            service = SandboxService(client)
            try:
                began = time.time()
                first = await service.resumed(resumed(time.time_ns() + DAY_S * 10**9))
                source = notes(first.steps)["clock"]
                # the host's own clock counts more than what was said
                ahead_s = 0 if "/dev/ptp0" in source else DAY_S
                await check_clock(sandbox, began, ahead_s)
            finally:
                began = time.time()
                second = await service.resumed(resumed(time.time_ns()))
            await check_clock(sandbox, began)
            assert second.generation.number == first.generation.number + 1
            assert second.generation.id != first.generation.id

    asyncio.run(run())
