"""Storages in the guest: a disk of the machine, mounted and grown while in use; memory volumes and huge pages."""

from __future__ import annotations

import asyncio

import pytest
from qemu.qmp import QMPClient

from kata_host.client import AgentClient
from kata_host.sandbox import Sandbox
from kata_host.spec import BindMount
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.guest import DISK_BYTES, Guest, plan, read_all

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

SANDBOX = "/run/kata-containers/sandbox"
DISK = pb.Storage(
    driver="blk",
    source="/dev/vda",
    fstype="ext4",
    options=["nosuid"],
    mount_point=f"{SANDBOX}/storage/disk",
    fs_group=pb.FSGroup(group_id=3000),
)
CACHE = pb.Storage(
    driver="ephemeral",
    source="tmpfs",
    fstype="tmpfs",
    options=["noexec", "size=1m", "fsgid=44"],
    mount_point=f"{SANDBOX}/ephemeral/cache",
)
HUGE = pb.Storage(
    driver="ephemeral",
    source="nodev",
    fstype="hugetlbfs",
    options=["pagesize=2097152,size=4194304"],
    mount_point=f"{SANDBOX}/ephemeral/huge",
)
GUEST_PROC = BindMount("/proc", "/guest-proc", ("rbind", "ro"))
MIB = 1 << 20


async def run_in(sandbox: Sandbox, script: str, *storages: pb.Storage) -> str:
    """What a shell with the storages under /mnt prints."""
    binds = [
        GUEST_PROC,
        *(
            BindMount(one.mount_point, f"/mnt/{number}", ("rbind", "rw"))
            for number, one in enumerate(storages)
        ),
    ]
    spec = plan("sh", "-c", script, binds=binds, masked=False)
    async with sandbox.container(spec, storages=storages) as container:
        await container.start()
        output = await read_all(container)
        errors = await read_all(container, stderr=True)
        assert await container.wait(30) == 0, errors.decode()
        return output.decode()


async def read_total(client: AgentClient, path: str) -> int:
    answer = await client.get_volume_stats(pb.VolumeStatsRequest(volume_guest_path=path))
    return answer.usage[0].total


async def grow_disk(guest: Guest, size: int) -> None:
    monitor = QMPClient("test")
    await monitor.connect(str(guest.qmp))
    try:
        await monitor.execute("block_resize", {"node-name": "disk0", "size": size})
    finally:
        await monitor.disconnect()


def test_disk_keeps_its_data_and_grows_while_a_container_uses_it(guest: Guest) -> None:
    async def run() -> None:
        async with guest.connect() as sandbox:
            await run_in(sandbox, "echo kept > /mnt/0/file; sync", DISK)
            spec = plan("sleep", "1000", binds=[BindMount(DISK.mount_point, "/mnt", ("rbind", "rw"))])
            async with sandbox.container(spec, storages=[DISK]) as container:
                await container.start()
                before = await read_total(sandbox.client, DISK.mount_point)
                size = DISK_BYTES + 32 * MIB
                request = pb.ResizeVolumeRequest(volume_guest_path=DISK.mount_point, size=size)
                # the guest hears of the call and of the disk in either order
                async with asyncio.TaskGroup() as group:
                    group.create_task(sandbox.client.resize_volume(request))
                    group.create_task(grow_disk(guest, size))
                grown = await read_total(sandbox.client, DISK.mount_point) - before
                assert 28 * MIB < grown <= 32 * MIB  # the new groups have tables of their own
                request.size = 0  # all that it has, which is what it has by now
                await sandbox.client.resize_volume(request)
                request.size = DISK_BYTES
                with pytest.raises(StatusError, match="a mounted ext4 cannot be made smaller"):
                    await sandbox.client.resize_volume(request)
            said = await run_in(
                sandbox, "cat /mnt/0/file; stat -c %g:%a /mnt/0; cat /proc/self/mountinfo", DISK
            )
            assert said.startswith("kept\n3000:")
            assert " ext4 /dev/vda " in said
            left = await run_in(sandbox, "cat /guest-proc/1/mountinfo")
            assert "/dev/vda" not in left

    asyncio.run(run())


def test_memory_volumes_outlive_their_container_and_have_their_size_and_pages(guest: Guest) -> None:
    async def run() -> None:
        async with guest.connect() as sandbox:
            said = await run_in(
                sandbox,
                "echo kept > /mnt/0/file; grep HugePages_Total /guest-proc/meminfo; cat /proc/self/mountinfo",
                CACHE,
                HUGE,
            )
            assert "HugePages_Total:       2\n" in said
            assert "size=1024k" in said
            assert f"pagesize=2M,size={4 * MIB}" in said
            bigger = pb.Storage()
            bigger.CopyFrom(CACHE)
            bigger.options[:] = ["remount", "size=2m", "fsgid=44"]
            await sandbox.client.update_ephemeral_mounts(pb.UpdateEphemeralMountsRequest(storages=[bigger]))
            assert await read_total(sandbox.client, CACHE.mount_point) == 2 * MIB
            said = await run_in(
                sandbox, "cat /mnt/0/file; stat -c %g:%a /mnt/0; cat /guest-proc/1/mountinfo", CACHE
            )
            assert said.startswith("kept\n44:3777\n")
            (line,) = [line for line in said.splitlines() if f" {CACHE.mount_point} " in line]
            assert "noexec" in line

    asyncio.run(run())


def test_mount_that_the_guest_s_kernel_refuses_is_told_in_its_words(guest: Guest) -> None:
    async def run() -> None:
        async with guest.connect() as sandbox:
            share = pb.Storage(
                driver="9p", source="tag", fstype="9p", options=["trans=virtio"], mount_point=f"{SANDBOX}/9p"
            )
            with pytest.raises(StatusError, match=rf"mount 9p {SANDBOX}/9p: ENODEV: No such device"):
                await sandbox.create(plan("true"), storages=[share])

    asyncio.run(run())
