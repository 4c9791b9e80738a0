"""What Kata's two runtimes send for a pod with volumes, call by call: the Go runtime, and runtime-rs.

Sandbox on virtiofs, a root on a virtio disk, a volume on a SCSI disk, memory, huge pages, a folder for the pod and a
ConfigMap; then what each calls at the end. Guest pull is in test_guest_pull.py, CDI in test_cdi.py.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata_host.client import AgentClient
from kata_host.connect import connect
from kata_host.message_json import fill_message
from kata_host.sandbox import plan_share_storage
from kata_host.spec import BindMount, ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE
from kata_host.vm.plug import Plugged, open_monitor
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.guest import Guest, plan_python, read_all
from kata_testing.loop import make_image
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

MIB = 1 << 20
SANDBOX = "/run/kata-containers/sandbox"
CID = "b" * 64
PAUSE = "a" * 64
SCRIPT = """
cat /config/key; echo; cat /volume/file; echo
stat -c %g /volume; stat -c %a /local
grep -c ' /hugepages hugetlbfs ' /proc/mounts
grep -E ' /dev/shm | /memory ' /proc/mounts | sed 's/.*size=//' | cut -d, -f1 | sort
echo seen > /memory/file; cat /memory/file
mkdir /root-is-mine && echo written
"""
LEFT = "print(open('/tmp/proc/1/mountinfo').read())"


@dataclass(frozen=True)
class Runtime:
    """How one of them differs."""

    share_options: tuple[str, ...]
    root_mount: str
    """Where the root's disk is mounted; the container's root is `rootfs` in it, or it itself."""
    root_path: str
    watchable: str
    exec_id: str


GO = Runtime((), f"{GUEST_SHARE}{CID}", f"{GUEST_SHARE}{CID}/rootfs", f"{GUEST_SHARE}watchable/config", CID)
RS = Runtime(
    ("nodev",),
    f"{GUEST_SHARE}{CID}/rootfs",
    f"{GUEST_SHARE}{CID}/rootfs",
    f"{GUEST_SHARE}passthrough/watchable/config",
    "",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A root as each runtime has it, and a volume."""
    folder = tmp_path_factory.mktemp("images")
    busybox = BUILD / "rootfs" / "busybox"
    shutil.copytree(busybox, folder / "go" / "rootfs", symlinks=True, ignore=shutil.ignore_patterns("dev"))
    (folder / "go" / "rootfs" / "dev").mkdir()
    (folder / "volume").mkdir()
    (folder / "volume" / "file").write_text("on the volume")
    return {
        "go": make_image(folder / "go.img", 32 * MIB, "mkfs.ext4", "-q", "-d", str(folder / "go")),
        "rs": make_image(folder / "rs.img", 32 * MIB, "mkfs.ext4", "-q", "-d", str(folder / "go" / "rootfs")),
        "volume": make_image(
            folder / "volume.img", 16 * MIB, "mkfs.ext4", "-q", "-d", str(folder / "volume")
        ),
    }


def shm() -> pb.Storage:
    options = ["noexec", "nosuid", "nodev", "mode=1777", f"size={8 * MIB}"]
    return pb.Storage(
        driver="ephemeral", source="shm", fstype="tmpfs", mount_point=f"{SANDBOX}/shm", options=options
    )


def volumes(runtime: Runtime, root: Plugged, volume: Plugged) -> list[pb.Storage]:
    """In the order in which the runtimes send them: the root first."""
    place = base64.urlsafe_b64encode(volume.address.encode()).decode()
    return [
        pb.Storage(driver="blk", source=root.address, fstype="ext4", mount_point=runtime.root_mount),
        pb.Storage(
            driver="scsi",
            source=volume.address,
            fstype="ext4",
            mount_point=f"{SANDBOX}/storage/{place}",
            fs_group=pb.FSGroup(group_id=3000),
        ),
        pb.Storage(
            driver="ephemeral", source="tmpfs", fstype="tmpfs", mount_point=f"{SANDBOX}/ephemeral/memory"
        ),
        pb.Storage(
            driver="ephemeral",
            source="nodev",
            fstype="hugetlbfs",
            mount_point=f"{SANDBOX}/ephemeral/huge",
            options=[f"pagesize={2 * MIB},size={4 * MIB}"],
        ),
        pb.Storage(
            driver="local",
            source="local",
            fstype="local",
            mount_point=f"{GUEST_SHARE}{PAUSE}/rootfs/local/folder",
            options=["mode=0777", "fsgid=1000"],
        ),
        pb.Storage(
            driver="watchable-bind",
            source=f"{GUEST_SHARE}replay-config",
            fstype="bind",
            mount_point=runtime.watchable,
            options=["rbind", "ro"],
        ),
    ]


def make_spec(runtime: Runtime, storages: list[pb.Storage]) -> dict[str, object]:
    places = dict(zip(("/volume", "/memory", "/hugepages", "/local", "/config"), storages[1:], strict=True))
    binds = [BindMount(one.mount_point, to, ("rbind", "rw")) for to, one in places.items()]
    binds.append(BindMount(f"{SANDBOX}/shm", "/dev/shm", ("rbind",)))
    return plan_spec(ProcessPlan(("sh", "-c", SCRIPT)), runtime.root_path, writable=True, binds=binds)


@asynccontextmanager
async def pod(guest: Guest, runtime: Runtime) -> AsyncIterator[AgentClient]:
    """The sandbox as this runtime makes it; afterwards the one that the other tests know."""
    async with await connect(guest.address) as client:
        share = plan_share_storage()
        share.options.extend(runtime.share_options)
        request = pb.CreateSandboxRequest(
            hostname="pod", dns=["nameserver 192.0.2.1"], storages=[share, shm()], sandbox_id=PAUSE
        )
        await client.create_sandbox(request)
        await client.get_guest_details(pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True))
        try:
            yield client
        finally:
            await client.create_sandbox(
                pb.CreateSandboxRequest(
                    sandbox_id="shared", hostname="kata-test", storages=[plan_share_storage()]
                )
            )


async def read_out(client: AgentClient) -> str:
    said = b""
    while True:
        try:
            said += (await client.read_stdout(pb.ReadStreamRequest(container_id=CID, len=32768))).data
        except StatusError as error:
            if "eof" not in error.message:
                raise
            return said.decode()


async def end(client: AgentClient, runtime: Runtime) -> None:
    """The calls of a container's end; both runtimes ask for what is over already."""
    signal = pb.SignalProcessRequest(container_id=CID, signal=9)
    try:
        await client.signal_process(signal)
    except StatusError as error:
        assert "ESRCH: No such process" in error.message  # noqa: PT017 - either is an answer
    await client.wait_process(pb.WaitProcessRequest(container_id=CID, exec_id=runtime.exec_id))
    await client.remove_container(pb.RemoveContainerRequest(container_id=CID))


@pytest.mark.parametrize("name", ["go", "rs"])
def test_pod_with_volumes_is_served_call_by_call(guest: Guest, images: dict[str, Path], name: str) -> None:
    runtime = {"go": GO, "rs": RS}[name]
    for folder in ("replay-config", "watchable", "passthrough/watchable", CID, f"{CID}/rootfs"):
        (guest.share / folder).mkdir(parents=True, exist_ok=True)
    (guest.share / "replay-config" / "key").write_text("of the config map")

    async def drive() -> None:
        async with open_monitor(guest.qmp) as monitor, pod(guest, runtime) as client:
            root = await monitor.plug_disk(f"root-{name}", images[name])
            volume = await monitor.plug_scsi_disk(f"volume-{name}", images["volume"], target=0, unit=1)
            storages = volumes(runtime, root, volume)
            if name == "rs":
                await client.online_cpu_mem(pb.OnlineCPUMemRequest(nb_cpus=1))
            request = pb.CreateContainerRequest(container_id=CID, exec_id=runtime.exec_id, storages=storages)
            fill_message(request.OCI, make_spec(runtime, storages))
            await client.create_container(request)
            if name == "go":
                await client.online_cpu_mem(pb.OnlineCPUMemRequest())
                grown = pb.Storage(driver="ephemeral", options=["remount", "size=16M"])
                grown.MergeFrom(
                    pb.Storage(source="tmpfs", fstype="tmpfs", mount_point=storages[2].mount_point)
                )
                await client.update_ephemeral_mounts(pb.UpdateEphemeralMountsRequest(storages=[grown]))
            await client.start_container(pb.StartContainerRequest(container_id=CID))
            said = (await read_out(client)).splitlines()
            waited = await client.wait_process(
                pb.WaitProcessRequest(container_id=CID, exec_id=runtime.exec_id)
            )
            assert waited.status == 0, said
            sizes = said[5:-2]
            assert said[:5] == ["of the config map", "on the volume", "3000", "2777", "1"]
            assert f"{8 * MIB // 1024}k" in sizes
            assert name == "rs" or f"{16 * MIB // 1024}k" in sizes
            assert said[-2:] == ["seen", "written"]
            await end(client, runtime)
            if name == "go":
                await client.remove_stale_virtiofs_share_mounts(pb.RemoveStaleVirtiofsShareMountsRequest())
            await monitor.unplug(volume)
            await monitor.unplug(root)
        async with guest.connect() as sandbox:
            binds = [BindMount("/proc", "/tmp/proc", ("rbind", "ro"))]
            async with sandbox.container(plan_python(LEFT, binds=binds)) as container:
                await container.start()
                left = (await read_all(container)).decode()
        mounts = [line for line in left.splitlines() if "/run/kata-containers/" in line]
        assert [line for line in mounts if CID in line or "/sandbox/" in line or "watchable" in line] == []

    asyncio.run(drive())
