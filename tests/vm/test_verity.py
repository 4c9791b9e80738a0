"""Containers' disks that are checked block by block, and roots of layers: real device-mapper in the guest's kernel."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from kata_host.client import AgentClient
from kata_host.connect import connect, open_caller
from kata_host.sandbox import Container, Sandbox, end_container
from kata_host.spec import CAPABILITIES, BindMount, ProcessPlan, plan_spec
from kata_images.verity import BLOCK_BYTES, make_hash_tree
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import StatusError
from kata_testing.guest import read_all, run_tool
from kata_testing.loop import make_image, run
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "qemu", "guest-image", "erofs")

ROOT = "/run/kata-containers/layered/rootfs"
VOLUME = "/run/kata-containers/sandbox/storage/checked"
LOOK = [BindMount("/proc", "/mnt", ("rbind", "ro")), BindMount("/sys/class/block", "/tmp", ("bind", "ro"))]
# What is left of disks that were checked, and of layers: nothing but the disks themselves.
LEFT = "ls /tmp; grep -c -e kata-verity -e multi-layer /mnt/1/mountinfo"
KILL_TIMEOUT_S = 60.0
SECRET = b"kept as it was written\n"


@dataclass(frozen=True)
class Disk:
    """One disk of the machine: its node in the guest, and what checks it."""

    node: str
    root_hash: str = ""
    hash_offset: int = 0

    def words(self, **changed: str) -> list[str]:
        values = {"roothash": self.root_hash, "hashoffset": str(self.hash_offset)} | changed
        return [
            "X-kata.dmverity-enabled=true",
            *(f"X-kata.dmverity.{key}={value}" for key, value in values.items()),
        ]


def check(node: str, file: Path) -> Disk:
    """Append a hash tree to an image."""
    data = file.read_bytes()
    data += b"\0" * (-len(data) % BLOCK_BYTES)
    tree = make_hash_tree(data, salt=b"a test's salt", uuid=UUID(int=9))
    file.write_bytes(data + tree.area)
    return Disk(node, tree.root_hash, len(data))


@dataclass(frozen=True)
class Machine:
    address: str
    base: Disk
    top: Disk
    upper: Disk
    ext4: Disk
    tampered: Disk

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[Sandbox]:
        async with await connect(self.address, 10.0) as client:
            yield Sandbox(client, "layered", pb.GuestDetailsResponse())


@pytest.fixture(scope="module")
def machine(short_folder: Path) -> Iterator[Machine]:
    folder = short_folder / "verity"
    (folder / "top/etc").mkdir(parents=True)
    (folder / "top/etc/layer").write_text("the upper of two read-only layers\n")
    (folder / "volume").mkdir()
    (folder / "volume/secret").write_bytes(SECRET)
    files = [folder / name for name in ("base", "top.erofs", "upper", "ext4", "tampered")]
    run("mkfs.erofs", "-T0", files[0], BUILD / "rootfs" / "busybox")
    run("mkfs.erofs", "-T0", files[1], folder / "top")
    make_image(files[2], 16 << 20, "mkfs.ext4", "-q")
    make_image(
        files[3],
        16 << 20,
        "mkfs.ext4",
        "-q",
        "-b",
        "4096",
        "-O",
        "^has_journal",
        "-d",
        str(folder / "volume"),
    )
    shutil.copyfile(files[3], files[4])
    # The launcher gives disks in this order: /dev/vda first.
    base, top, ext4, tampered = (check(f"/dev/vd{letter}", files["abcde".index(letter)]) for letter in "abde")
    with files[4].open("r+b") as file:
        file.seek(files[4].read_bytes().index(SECRET))
        file.write(b"x")
    words = [word for file in files for word in ("--disk", str(file))]
    vm_dir = short_folder / "verity-vms"
    start = ("vm", "start", "--json", "--memory", "256", "--share", str(BUILD / "rootfs" / "busybox"))
    done = run_tool(*start, *words, vm_dir=vm_dir)
    try:
        assert done.returncode == 0, done.stderr.decode()
        address = json.loads(done.stdout)["address"]
        asyncio.run(create_sandbox(address))
        yield Machine(address, base, top, Disk("/dev/vdc"), ext4, tampered)
    finally:
        run_tool("vm", "stop", "--all", vm_dir=vm_dir, timeout_s=30)


async def create_sandbox(address: str) -> None:
    async with await connect(address) as client:
        await client.create_sandbox(pb.CreateSandboxRequest(sandbox_id="layered"))


def plan_layers(machine: Machine, *, base: list[str] | None = None) -> list[pb.Storage]:
    """A root as Kata's host sends it: a writable disk, and two checked read-only layers, the upper one first."""

    def layer(disk: Disk, fstype: str, *words: str) -> pb.Storage:
        options = [*words, "X-kata.multi-layer=true"]
        return pb.Storage(
            driver="mmioblk", source=disk.node, fstype=fstype, mount_point=ROOT, options=options
        )

    return [
        layer(machine.upper, "ext4", "rw", "X-kata.overlay-upper"),
        layer(machine.top, "erofs", "ro", "X-kata.overlay-lower", *machine.top.words()),
        layer(machine.base, "erofs", "ro", "X-kata.overlay-lower", *(base or machine.base.words())),
    ]


async def run_on(sandbox: Sandbox, storages: list[pb.Storage], script: str, root: str = ROOT) -> str:
    """What a shell prints whose root the storages make."""
    spec = plan_spec(ProcessPlan(["sh", "-c", script]), root, binds=LOOK, writable=True, masked=False)
    async with sandbox.container(spec, storages=storages) as container:
        await container.start()
        output = await read_all(container)
        errors = await read_all(container, stderr=True)
        assert await container.wait(60) == 0, errors.decode()
        return output.decode()


def test_layers_are_checked_and_become_a_root_whose_writes_stay_on_its_disk(machine: Machine) -> None:
    async def use() -> list[str]:
        async with machine.sandbox() as sandbox:
            return [
                await run_on(
                    sandbox,
                    plan_layers(machine),
                    "cat /etc/layer; echo written > /note; ls /tmp | grep -c ^dm-",
                ),
                await run_on(sandbox, plan_layers(machine), "cat /note; " + LEFT.replace("grep -c", "grep")),
            ]

    first, second = asyncio.run(use())
    assert first.splitlines() == ["the upper of two read-only layers", "2"]
    assert second.splitlines()[0] == "written"
    assert second.count("- erofs /dev/mapper/kata-verity-") == 2
    assert f"{ROOT} " in second


def test_a_wrong_root_hash_is_refused_with_both_and_nothing_is_left(machine: Machine) -> None:
    wrong = machine.base.words(roothash="0" * 64)

    async def use() -> str:
        async with machine.sandbox() as sandbox:
            with pytest.raises(StatusError) as refused:
                await run_on(sandbox, plan_layers(machine, base=wrong), "true")
            told = f"verity root hash mismatch: {'0' * 64} is wanted, the device's tree has {machine.base.root_hash}"
            assert told in refused.value.message
            # A good root again, with everything as before: no device, no mount, no name was kept.
            return await run_on(sandbox, plan_layers(machine), "ls /tmp | grep -c ^dm-")

    assert asyncio.run(use()).split() == ["2"]


def plan_volume(disk: Disk) -> pb.Storage:
    return pb.Storage(
        driver="mmioblk", source=disk.node, fstype="ext4", mount_point=VOLUME, options=disk.words()
    )


async def read_volume(sandbox: Sandbox, machine: Machine, disk: Disk) -> tuple[int, bytes, bytes]:
    bind = BindMount(VOLUME, "/var", ("rbind", "ro"))
    spec = plan_spec(ProcessPlan(["cat", "/var/secret"]), ROOT, binds=[bind], writable=True)
    async with sandbox.container(spec, storages=[*plan_layers(machine), plan_volume(disk)]) as container:
        await container.start()
        output, errors = await read_all(container), await read_all(container, stderr=True)
        return await container.wait(60), output, errors


def test_a_changed_byte_of_a_volume_is_an_error_for_its_reader_alone(machine: Machine) -> None:
    async def use() -> list[tuple[int, bytes, bytes]]:
        async with machine.sandbox() as sandbox:
            return [await read_volume(sandbox, machine, disk) for disk in (machine.ext4, machine.tampered)]

    good, bad = asyncio.run(use())
    assert good == (0, SECRET, b"")
    assert bad[0] == 1
    assert b"Input/output error" in bad[2]
    assert bad[1] == b""


# The agent is made the first choice of the out-of-memory killer, which is then called by hand.
KILL_AGENT = """
for p in /mnt/[0-9]*; do
  read -r pid name state ppid rest < $p/stat || continue
  [ "$name $ppid" = "(kata-agent) 1" ] && echo 1000 > $p/oom_score_adj
done
echo f > /mnt/sysrq-trigger
"""


def test_the_next_agent_takes_the_disks_of_a_killed_one_apart(machine: Machine) -> None:
    """What is left is looked at by the test after this one."""
    capabilities = [*CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    process = ProcessPlan(["sh", "-c", KILL_AGENT], capabilities=capabilities)
    binds = [BindMount("/proc", "/mnt", ("rbind", "rw"))]

    async def use() -> None:
        async with asyncio.timeout(KILL_TIMEOUT_S), await open_caller(machine.address) as caller:
            sandbox = Sandbox(AgentClient(caller), "layered", pb.GuestDetailsResponse())
            spec = plan_spec(process, ROOT, binds=binds, writable=True, masked=False)
            killer = await sandbox.create(spec, "killer", storages=plan_layers(machine))
            with suppress(ConnectionLostError):
                await killer.start()
            await caller.wait_closed()  # the kernel's worker kills when its turn comes
        async with machine.sandbox() as sandbox:
            await sandbox.client.check()
            await end_container(Container(sandbox.client, "killer"))

    asyncio.run(use())


def test_after_the_last_container_no_device_and_no_mount_is_left(machine: Machine) -> None:
    share = "/run/kata-containers/shared/containers/"
    virtiofs = pb.Storage(driver="virtio-fs", source="kataShared", fstype="virtiofs", mount_point=share)

    async def use() -> str:
        async with machine.sandbox() as sandbox:
            return await run_on(sandbox, [virtiofs], f"{LEFT} || true", root=share)

    assert asyncio.run(use()).split() == ["vda", "vdb", "vdc", "vdd", "vde", "0"]
