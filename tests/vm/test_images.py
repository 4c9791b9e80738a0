"""Each kind of root boots, is checked, shares what it can, and lets containers pivot; a bad one says why it is bad."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kata_host.connect import connect
from kata_host.guest import find_guest
from kata_host.sandbox import Sandbox, open_sandbox
from kata_host.spec import BindMount, ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE, BootFailed, VmConfig
from kata_host.vm.console import read_console
from kata_host.vm.qemu import QemuVm, launch
from kata_protocols.aio.client import ConnectionLostError
from kata_testing.guest import read_all
from kata_testing.repository import BUILD, GUEST

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

BOOT_TIMEOUT_S = 240.0
GUEST_PROC = BindMount("/proc", "/mnt")


def plan_machine(kind: str) -> VmConfig:
    return VmConfig(
        find_guest(str(GUEST)),
        image=kind,
        memory_mib=256,
        share=BUILD / "rootfs" / "busybox",
        boot_timeout_s=BOOT_TIMEOUT_S,
    )


async def run_in(sandbox: Sandbox, *command: str) -> list[str]:
    """The lines that a container prints; it sees the guest's /proc at /mnt."""
    spec = plan_spec(ProcessPlan(command), GUEST_SHARE, binds=[GUEST_PROC])
    async with sandbox.container(spec) as container:
        await container.start()
        output = await read_all(container)
        assert await container.wait(60) == 0
    return output.decode().splitlines()


@asynccontextmanager
async def machine(kind: str) -> AsyncIterator[tuple[QemuVm, str, list[str]]]:
    """A machine with a sandbox: its root's mount, and the mounts that a container of it saw."""
    async with (
        launch(plan_machine(kind)) as vm,
        await connect(vm.address) as client,
        open_sandbox(client) as sandbox,
    ):
        try:
            guest = await run_in(sandbox, "grep", " / ", "/mnt/1/mounts")
            yield vm, guest[0], await run_in(sandbox, "cat", "/proc/self/mounts")
        except ConnectionLostError as lost:
            raise AssertionError(f"{await vm.explain_loss(lost)}\n{read_console(vm.console)}") from lost


@pytest.mark.parametrize("kind", ["erofs", "ext4"])
def test_a_verified_disk_is_the_root_and_containers_pivot_away_from_it(kind: str) -> None:
    async def boot() -> tuple[str, list[str]]:
        async with machine(kind) as (_, root, own):
            return root, own

    root, own = asyncio.run(boot())
    assert root.startswith(f"/dev/mapper/kata-root / {kind} ro,")
    # crun refuses what it cannot pivot from; after it nothing of the guest's root is in sight.
    assert own[0].split()[:3] == ["kataShared", "/", "virtiofs"]
    assert not [line for line in own if "kata-root" in line]


def read_mapping(pid: int, name: str) -> dict[str, int]:
    """kB of each kind that a process has in memory of the file that it has mapped (proc_pid_smaps(5))."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            inside = line.endswith(name)
        elif inside and line.endswith(" kB"):
            found[word[:-1]] = found.get(word[:-1], 0) + int(line.split()[1])
    return found


def test_machines_on_shared_memory_have_one_copy_of_the_root_between_them() -> None:
    async def boot() -> list[tuple[str, dict[str, int]]]:
        async with AsyncExitStack() as stack:
            vms = [await stack.enter_async_context(machine("erofs-dax")) for _ in range(2)]
            return [(root, read_mapping(vm.child.pid, "/root.erofs")) for vm, root, _ in vms if vm.child]

    machines = asyncio.run(boot())
    for root, mapped in machines:
        assert root.startswith("/dev/pmem0 / erofs ro,")
        assert "dax=always" in root
        assert mapped["Rss"] > 4096, "the guest reads its root from the host's pages"
        assert mapped["Anonymous"] == mapped["Private_Dirty"] == 0, "no page of it is a machine's own copy"
        # How much two machines touch in common varies with what each read around a page; that most of it is does not.
        assert mapped["Shared_Clean"] > mapped["Private_Clean"]


def copy_guest(folder: Path) -> Path:
    """A guest folder of its own, whose root disk and manifest may be changed."""
    folder.mkdir()
    for name in ("vmlinuz", "initrd.img", "boot.img"):
        (folder / name).symlink_to(GUEST / name)
    for name in ("root.erofs", "manifest.json"):
        shutil.copyfile(GUEST / name, folder / name)
    return folder


def boot_and_fail(folder: Path, *kernel_args: str) -> str:
    """What is told about a machine of this folder that does not boot."""
    config = plan_machine("erofs")
    guest = replace(config.guest, kernel=folder / "vmlinuz", initrd=folder / "initrd.img")
    config = replace(config, guest=guest, share=None, kernel_args=kernel_args)

    async def boot() -> None:
        async with launch(config):
            raise AssertionError("it booted")

    with pytest.raises(BootFailed) as failure:
        asyncio.run(boot())
    return str(failure.value)


def test_a_changed_byte_ends_the_boot_and_the_kernel_says_which_block(short_folder: Path) -> None:
    folder = copy_guest(short_folder / "tampered")
    disk = folder / "root.erofs"
    # PID 1's launcher, which the kernel reads when the first stage executes it.
    offset = disk.read_bytes().index(b"from kata_init.main import main")
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(b"F")
    said = boot_and_fail(folder)
    assert f"data block {offset // 4096} is corrupted" in said
    assert "Kernel panic - not syncing: dm-verity device corrupted" in said


def test_a_root_hash_that_is_not_the_disks_ends_the_boot_with_both_hashes(short_folder: Path) -> None:
    folder = copy_guest(short_folder / "other")
    manifest = json.loads((folder / "manifest.json").read_text())
    right = manifest["roots"]["erofs"]["root_hash"]
    manifest["roots"]["erofs"]["root_hash"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said = boot_and_fail(folder)
    assert f"/dev/vda: verity root hash mismatch: {'0' * 64} is wanted, the device's tree has {right}" in said


def test_a_root_disk_that_is_not_there_is_told_with_those_that_are(short_folder: Path) -> None:
    folder = copy_guest(short_folder / "absent")
    said = boot_and_fail(folder, "root=/dev/vdq", "kata.root_wait=1")
    assert "root disk /dev/vdq: not there after 1 s; disks that are: vda" in said
