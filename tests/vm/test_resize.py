"""Processors and memory plugged while containers run: the guest and its containers have more of both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from kata_host.client import AgentClient
from kata_host.connect import connect
from kata_host.guest import find_guest
from kata_host.sandbox import Container, Sandbox, open_sandbox
from kata_host.spec import ProcessPlan, plan_process
from kata_host.vm import resize
from kata_host.vm.base import VmConfig, VmError
from kata_host.vm.console import find_trouble
from kata_host.vm.qemu import QemuVm, launch
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.guest import plan, read_all, run_tool
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 180.0
EATEN_MIB = 64
LOOK = (
    "grep Cpus_allowed_list /proc/self/status; grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo"
)


async def look(container: Container) -> tuple[str, int, int]:
    """What a container has: its processors, the number of the guest's, MiB of the guest's memory."""
    process = await container.exec(plan_process(ProcessPlan(["sh", "-c", LOOK])))
    allowed, count, memory = (await read_all(process)).decode().splitlines()
    return allowed.split()[1], int(count), int(memory.split()[1]) >> 10


def with_cpus(cpus: str) -> dict[str, object]:
    spec: dict[str, Any] = plan("sleep", "1000")
    spec["linux"]["resources"]["cpu"] = {"cpus": cpus}
    return spec


@asynccontextmanager
async def sized_machine() -> AsyncIterator[tuple[QemuVm, AgentClient]]:
    """A machine of one processor that may get three more."""
    config = VmConfig(
        find_guest(),
        cpus=1,
        max_cpus=4,
        memory_mib=384,
        memory_device_mib=256,
        share=BUILD / "rootfs",
        kernel_args=("loglevel=5",),
    )
    async with asyncio.timeout(DEADLINE_S), launch(config) as vm, await connect(vm.address) as client:
        yield vm, client
        said = vm.console.read_text(errors="replace")
    assert not find_trouble(said), said


def test_containers_that_run_have_what_is_plugged() -> None:
    async def run() -> None:
        async with sized_machine() as (vm, client), open_sandbox(client) as sandbox:
            free, listed = sandbox.container(plan("sleep", "1000")), sandbox.container(with_cpus("0-2"))
            async with free as one, listed as other:
                await one.start()
                await other.start()
                assert [(await look(container))[:2] for container in (one, other)] == [("0", 1)] * 2
                await plug_processors(vm, client)
                assert [(await look(container))[:2] for container in (one, other)] == [("0-3", 4), ("0-2", 4)]
                await plug_memory(vm, client, one)
            await check_memory_goes_back(vm, sandbox)

    asyncio.run(run())


async def plug_processors(vm: QemuVm, client: AgentClient) -> None:
    """Two that are there when the agent is asked, one that comes while it waits; a total that cannot be."""
    assert await tool(vm, "plug", vm.name, "more", "cpu", "2") == (0, "more-1-0-0 more-2-0-0\n", "")
    await client.online_cpu_mem(pb.OnlineCPUMemRequest(nb_cpus=3, cpu_only=True))
    async with asyncio.TaskGroup() as group:
        group.create_task(client.online_cpu_mem(pb.OnlineCPUMemRequest(nb_cpus=4, cpu_only=True)))
        group.create_task(resize.plug_cpus(vm, 1))
    with pytest.raises(
        StatusError, match=r"failed to online 5 CPU\(s\): 0-3 are; the kernel has room for 0-3"
    ):
        await client.online_cpu_mem(pb.OnlineCPUMemRequest(nb_cpus=5))
    with pytest.raises(VmError, match="cannot plug 1 processors: 4 of 4 are there"):
        await resize.plug_cpus(vm, 1)
    if vm.accelerator.name == "tcg":
        status, _, errors = await tool(vm, "unplug", vm.name, "more")
        assert (status, "more-2-0-0 stays: without KVM, QEMU does not outlive" in errors) == (1, True), errors


async def tool(vm: QemuVm, *words: str) -> tuple[int, str, str]:
    """Status, output and errors of `kata-agent-ctl vm`."""
    done = await asyncio.to_thread(run_tool, "vm", *words, vm_dir=vm.folder.parent, timeout_s=90)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def plug_memory(vm: QemuVm, client: AgentClient, container: Container) -> None:
    """A module, and a memory device whose size the host sets while it is there. The module goes again."""
    before = (await look(container))[2]
    assert await tool(vm, "plug", vm.name, "dimm0", "memory", "128") == (0, "dimm0\n", "")
    await wait_memory(client, container, before + 128)
    monitor = QMPClient("test")
    await monitor.connect(str(vm.qmp_socket))
    try:
        with monitor.listener("MEMORY_DEVICE_SIZE_CHANGE") as changes:
            await resize.resize_memory_device(vm, 256)
            while await resize.read_memory_device(vm) < 256:
                await changes.get()
    finally:
        await monitor.disconnect()
    await wait_memory(client, container, before + 128 + 256)
    assert await tool(vm, "unplug", vm.name, "dimm0") == (0, "", "")
    assert abs((await look(container))[2] - before - 256) <= 8
    assert "dimm0-backend" not in {
        entry["name"] for entry in await vm.execute("qom-list", {"path": "/objects"})
    }
    details = await client.get_guest_details(
        pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
    )
    assert (details.mem_block_size_bytes, details.support_mem_hotplug_probe) == (128 << 20, False)
    with pytest.raises(StatusError, match="this kernel has no /sys/devices/system/memory/probe"):
        await client.mem_hotplug_by_probe(pb.MemHotplugByProbeRequest(memHotplugProbeAddr=[1 << 32]))


async def check_memory_goes_back(vm: QemuVm, sandbox: Sandbox) -> None:
    """What a container that has ended had used: the guest's kernel tells of it some seconds later, and nobody else."""
    eat = plan("sh", "-c", f"head -c {EATEN_MIB}m /dev/zero > /tmp/eaten; echo; sleep 1000")
    async with sandbox.container(eat) as container:
        await container.start()
        assert await anext(aiter(container.read_stdout())) == b"\n"
        most = read_held(vm)
    while read_held(vm) > most - EATEN_MIB * 3 // 4:
        await sandbox.client.check()


def read_held(vm: QemuVm) -> int:
    """MiB of the host's that the guest's memory has."""
    assert vm.child is not None
    held = 0
    for fd in Path(f"/proc/{vm.child.pid}/fd").iterdir():
        if "memfd:memory-backend" in os.readlink(fd):
            held += fd.stat().st_blocks * 512
    return held >> 20


async def wait_memory(client: AgentClient, container: Container, wanted: int) -> None:
    """ACPI's work comes a moment after the host's word, and has no event of ours; each look is a call to the guest."""
    found = 0
    while found < wanted - 8:
        await client.online_cpu_mem(pb.OnlineCPUMemRequest())
        found = (await look(container))[2]
    assert wanted - 8 <= found <= wanted
