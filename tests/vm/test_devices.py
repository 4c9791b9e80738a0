"""Disks that the host plugs into the running machine and pulls out again, while containers run.

Nothing may be left of any of them: no mount, no node, no record of the agent's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kata_host.connect import open_caller
from kata_host.sandbox import Container, Sandbox
from kata_host.sandbox_service import SandboxService
from kata_host.spec import BindMount, ProcessPlan, plan_process
from kata_host.vm.plug import Monitor, Plugged, open_monitor
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import sandbox_pb2
from kata_protocols.status import StatusError
from kata_testing.guest import Guest, plan, read_all, run_container, run_tool
from kata_testing.loop import make_image, run

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

MIB = 1 << 20
STORAGES = "/run/kata-containers/sandbox/storage"
GUEST_FOLDERS = ("/proc", "/dev", "/run/kata-agent")
LOOK = "cut -d' ' -f 3- /guest/proc/1/mountinfo; ls /guest/dev /guest/run/kata-agent/storages"
TIMES = 50
TOLD_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 disk with a file."""
    folder = tmp_path_factory.mktemp("disks")
    (folder / "root").mkdir()
    (folder / "root" / "file").write_text("from the disk")
    return make_image(folder / "ext4", 16 * MIB, "mkfs.ext4", "-q", "-d", str(folder / "root"))


@asynccontextmanager
async def machine(guest: Guest) -> AsyncIterator[tuple[Sandbox, Monitor]]:
    """The sandbox, with a container that runs all the while and sees the guest, which must look the same at the end."""
    binds = [BindMount(path, f"/guest{path}", ("bind", "ro")) for path in GUEST_FOLDERS]
    async with (
        open_monitor(guest.qmp) as monitor,
        guest.connect() as sandbox,
        sandbox.container(plan("sleep", "1000", binds=binds, masked=False)) as watcher,
    ):
        await watcher.start()
        before = await look(watcher)
        yield sandbox, monitor
        assert await look(watcher) == before


async def look(watcher: Container) -> str:
    """Mounts and nodes of the guest, and what the agent has written down of storages."""
    process = await watcher.exec(plan_process(ProcessPlan(["sh", "-c", LOOK])))
    output = (await read_all(process)).decode()
    assert await process.wait(30) == 0
    assert " / / " in output
    return output


def storage(disk: Plugged, driver: str = "blk", place: str = "", **fields: Any) -> pb.Storage:
    mount_point = f"{STORAGES}/{place or disk.id}"
    return pb.Storage(driver=driver, source=disk.address, fstype="ext4", mount_point=mount_point, **fields)


async def read_file(sandbox: Sandbox, wanted: pb.Storage) -> str:
    """What a container finds on the disk."""
    binds = [BindMount(wanted.mount_point, "/mnt", ("bind", "ro"))]
    async with sandbox.container(plan("cat", "/mnt/file", binds=binds), storages=[wanted]) as container:
        await container.start()
        output = await read_all(container)
        assert await container.wait(30) == 0
    return output.decode()


async def refuse(sandbox: Sandbox, wanted: pb.Storage) -> str:
    """The text with which a container with this storage is refused."""
    with pytest.raises(StatusError) as caught:
        await sandbox.create(plan("true"), storages=[wanted])
    return str(caught.value)


async def list_devices(guest: Guest) -> list[dict[str, Any]]:
    """What the tool shows of devices."""
    words = ("devices", "--json", "--server-address", guest.address)
    done = await asyncio.to_thread(run_tool, *words, vm_dir=guest.vm_dir, timeout_s=30)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@asynccontextmanager
async def until_told(guest: Guest, *texts: str) -> AsyncIterator[None]:
    """Leave when the agent has told these events, which what is done within brings about."""
    async with await open_caller(guest.address) as caller:
        service = SandboxService(caller)
        cursor = (await service.poll_events(sandbox_pb2.PollEventsRequest(only_new=True))).cursor
        yield
        missing = set(texts)
        async with asyncio.timeout(TOLD_TIMEOUT_S):
            while missing:
                request = sandbox_pb2.PollEventsRequest(cursor=cursor, wait_ms=20000)
                answer = await service.poll_events(request)
                cursor = answer.cursor
                missing -= {event.text for event in answer.events}


def check_listed(listed: list[dict[str, Any]], disk: Plugged) -> None:
    """The disk is there, ready again, with its driver and the times of each step in their order."""
    here = [each for each in listed if each["handler"] == "blk" and each["state"] in ("ready", "mounted")]
    (device,) = [each for each in here if disk.address in each["address"].replace(".0", "")]
    assert (device["driver"], device["state"]) == ("virtio_blk", "ready")
    assert device["node"].startswith("/dev/vd")
    assert 0 < int(device["event_ns"]) < int(device["mounted_ns"])
    assert int(device["asked_ns"]) <= int(device["ready_ns"]) < int(device["mounted_ns"])
    assert 0 < int(device["mount_ns"]) <= int(device["mounted_ns"]) - int(device["ready_ns"])


def test_tool_plugs_devices_and_pulls_them_with_what_was_behind(guest: Guest, image: Path) -> None:
    def tool(*words: str) -> str:
        done = run_tool("vm", *words, vm_dir=guest.vm_dir, timeout_s=90)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    async def drive() -> None:
        for _ in range(2):
            address = await asyncio.to_thread(
                tool, "plug", "shared", "mine", "disk", str(image), "--read-only"
            )
            async with guest.connect() as sandbox:
                wanted = storage(Plugged("mine", address), options=["ro", "noload"])
                assert await read_file(sandbox, wanted) == "from the disk"
            await asyncio.to_thread(tool, "unplug", "shared", "mine")
        assert re.fullmatch(
            r"..?/00", await asyncio.to_thread(tool, "plug", "shared", "n", "nic", "02:00:00:00:00:09")
        )
        await asyncio.to_thread(tool, "unplug", "shared", "n")

    asyncio.run(drive())
    tool("plug", "shared", "held", "disk", str(image))
    for words, told in (
        (
            ("held", "disk", str(image)),
            "the machine has a device held already; unplug it, or choose another name",
        ),
        (("1st", "disk", str(image)), "'1st': a device's name begins with a letter"),
        (("dimm", "memory", "100"), "a module of 100 MiB: the guest takes memory in blocks of 128 MiB"),
        (("group", "nic", "01:00:5e:00:00:01"), "a group's address; the first byte must be even"),
        (("more", "cpu", "1"), "an emulated guest brings no processor up"),
        (("none", "disk", "/dev/null"), "/dev/null: is empty; a disk has a size"),
    ):
        done = run_tool("vm", "plug", "shared", *words, vm_dir=guest.vm_dir, timeout_s=30)
        assert done.returncode != 0
        assert told in done.stderr.decode()
    tool("unplug", "shared", "held")
    done = run_tool("vm", "unplug", "shared", "n", vm_dir=guest.vm_dir, timeout_s=30)
    assert (done.returncode, done.stderr.decode()) == (
        1,
        "kata-agent-ctl: error: the machine has no device n\n",
    )


def test_swap_on_a_plugged_disk(guest: Guest, tmp_path: Path) -> None:
    image = make_image(tmp_path / "swap", 16 * MIB, "mkswap")
    binds = [BindMount("/dev", "/guest/dev", ("bind", "rw"))]
    spec: dict[str, Any] = plan("true", binds=binds, capabilities=["CAP_SYS_ADMIN"])
    spec["linux"]["resources"]["devices"].append({"allow": True, "type": "b", "access": "rwm"})

    async def drive() -> None:
        async with machine(guest) as (sandbox, monitor):
            disk = await monitor.plug_disk("swap", image)
            slots = [int(slot, 16) for slot in disk.address.split("/")]
            await sandbox.client.add_swap(pb.AddSwapRequest(PCIPath=slots))
            _, output, _ = await run_container(sandbox, "cat", "/proc/swaps")
            (node,) = re.findall(r"^/dev/vd\w+", output.decode(), re.MULTILINE)
            with pytest.raises(StatusError, match=rf"swapon {node}: EBUSY"):
                await sandbox.client.add_swap_path(pb.AddSwapPathRequest(path=node))
            with pytest.raises(StatusError, match=r"'20' is not a slot"):
                await sandbox.client.add_swap(pb.AddSwapRequest(PCIPath=[32]))
            off = ProcessPlan(["swapoff", f"/guest{node}"], capabilities=["CAP_SYS_ADMIN"])
            spec["process"] = plan_process(off)
            async with sandbox.container(spec) as container:
                await container.start()
                errors = await read_all(container, stderr=True)
                assert await container.wait(30) == 0, errors
            await monitor.unplug(disk)

    asyncio.run(drive())


def test_disk_is_plugged_used_and_pulled_fifty_times_in_a_row(guest: Guest, image: Path) -> None:
    async def drive() -> None:
        async with machine(guest) as (sandbox, monitor):
            for number in range(TIMES):
                disk = await monitor.plug_disk("hot", image, read_only=True)
                wanted = storage(disk, options=["ro", "noload"])
                if number in (0, TIMES - 1):
                    assert await read_file(sandbox, wanted) == "from the disk"
                    check_listed(await list_devices(guest), disk)
                else:
                    async with sandbox.container(plan("true"), storages=[wanted]):
                        pass
                await monitor.unplug(disk)

    asyncio.run(drive())


def test_scsi_disks_are_found_by_target_and_unit_with_the_modules_they_need(
    guest: Guest, image: Path
) -> None:
    async def drive() -> None:
        async with machine(guest) as (sandbox, monitor):
            first = await monitor.plug_scsi_disk("scsi-a", image, 1, read_only=True)
            second = await monitor.plug_scsi_disk("scsi-b", image, 1, 3, read_only=True)
            for disk in (second, first):
                wanted = storage(disk, "scsi", options=["ro", "noload"])
                assert await read_file(sandbox, wanted) == "from the disk"
            # Linux 6.12's virtio_scsi complains when its controller goes while it still hears of a disk that has gone.
            async with until_told(guest, "SCSI disk 1:0: gone", "SCSI disk 1:3: gone"):
                for disk in (first, second):
                    await monitor.unplug(disk)
            await monitor.unplug(Plugged("scsi0", ""))

    asyncio.run(drive())


def test_two_containers_that_wait_for_one_disk_get_it_when_it_comes(guest: Guest, image: Path) -> None:
    async def drive() -> None:
        async with machine(guest) as (sandbox, monitor):
            early = await monitor.plug_disk("early", image, read_only=True)
            await monitor.unplug(early)  # to know the address that the next disk will have
            wanted = [storage(early, place=name, options=["ro", "noload"]) for name in ("one", "two")]
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(read_file(sandbox, each)) for each in wanted]
                disk = await monitor.plug_disk("early", image, read_only=True)
            assert [reader.result() for reader in readers] == ["from the disk"] * 2
            assert disk.address == early.address
            await monitor.unplug(disk)

    asyncio.run(drive())


def test_container_gets_disks_as_nodes_with_the_guest_s_numbers(guest: Guest, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"raw disk" + bytes(MIB - 8))
    spec: dict[str, Any] = plan("sh", "-c", "stat -c '%F %t:%T' /dev/xvda /dev/xvdb; head -c 8 /dev/xvda")
    spec["linux"]["devices"] = [
        {"path": f"/dev/xvd{letter}", "type": "b", "major": 8, "minor": index, "fileMode": 0o660}
        for index, letter in enumerate("ab")
    ]

    async def drive() -> str:
        async with machine(guest) as (sandbox, monitor):
            disk = await monitor.plug_disk("raw", plain)
            devices = [
                pb.Device(type="blk", id=disk.address, container_path="/dev/xvda"),
                pb.Device(type="mmioblk", id="x", vm_path="/dev/vda", container_path="/dev/xvdb"),
            ]
            for wrong, text in (
                (
                    pb.Device(type="vfio-ap", id="x", container_path="/dev/xvda"),
                    "Failed to find the device handler vfio-ap",
                ),
                (pb.Device(type="blk", id="02/33", container_path="/dev/xvda"), "'33' is not a slot"),
                (
                    pb.Device(type="mmioblk", vm_path="/dev/vda", container_path="/dev/other"),
                    "Missing devices in OCI spec",
                ),
            ):
                with pytest.raises(StatusError, match=text):
                    await sandbox.create(spec, devices=[wrong])
            async with sandbox.container(spec, devices=devices) as container:
                await container.start()
                output = await read_all(container)
                errors = await read_all(container, stderr=True)
                assert await container.wait(30) == 0, errors
            await monitor.unplug(disk)
        return output.decode()

    said = asyncio.run(drive())
    found = re.fullmatch(r"block special file (\w+):(\w+)\nblock special file \1:0\nraw disk", said)
    assert found is not None, said
    assert int(found[1], 16) > 200  # none of the host's
    assert found[2] != "0"


def test_persistent_memory_is_found_by_its_name_with_the_modules_it_needs_and_mapped(
    guest: Guest, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_text("from the disk")
    image = make_image(
        tmp_path / "pmem", 16 * MIB, "mkfs.ext4", "-q", "-b", "4096", "-d", str(tmp_path / "root")
    )
    # A root on persistent memory is the first.
    number = int(os.environ.get("KATA_TEST_IMAGE") == "erofs-dax")

    async def drive() -> None:
        async with open_monitor(guest.qmp) as monitor, guest.connect() as sandbox:
            wanted = storage(Plugged("pmem", f"/dev/pmem{number}"), "nvdimm", options=["dax"])
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(read_file(sandbox, wanted))
                await monitor.plug_pmem("pmem", image)
            assert reader.result() == "from the disk"

    asyncio.run(drive())


def test_devices_that_cannot_be_had_are_told_with_what_is_there_and_leave_nothing(
    guest: Guest, image: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    run("truncate", "-s", "1M", plain)

    async def drive() -> list[str]:
        async with machine(guest) as (sandbox, monitor):
            mute = await monitor.plug_pci("mute", "edu")
            empty = await monitor.plug_disk("empty", plain)
            wanted = [
                storage(mute),
                storage(Plugged("none", "1d/00")),
                storage(Plugged("none", "7:9"), "scsi"),
                storage(Plugged("none", "/dev/pmem7"), "nvdimm"),
                storage(Plugged("none", "02/33")),
                storage(Plugged("none", "vda"), "mmioblk"),
                storage(Plugged("none", "0.0.0001"), "blk-ccw"),
                storage(empty),
            ]
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(refuse(sandbox, each)) for each in wanted]
            for device in (mute, empty):
                await monitor.unplug(device)
            return [call.result() for call in calls]

    texts = asyncio.run(drive())
    late = r"Timeout after \d+s waiting for uevent"
    for text, pattern in zip(
        texts,
        [
            rf"{late} block device at PCI path .*: slot 0000:\d\d:00.0 present, no driver bound",
            rf"{late} block device at PCI path 1d.0/00.0: there is no device 0000:00:1d.0",
            rf"{late} SCSI disk 7:9: there is no SCSI host",
            rf"{late} block device /dev/pmem7: the block devices there are: .*vda",
            "PCI path '02/33': '33' is not a slot",
            "Invalid device 'vda'",
            "Failed to find the storage handler blk-ccw: CCW devices are those of s390x",
            rf"mount ext4; EXT4-fs \(vd[a-z]\): VFS: Can't find ext4 filesystem {STORAGES}/empty: EINVAL",
        ],
        strict=True,
    ):
        assert re.search(pattern, text), text
