"""The three ways to boot a guest: what each adds to the machine, and what is told when it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kata_host.vm.base import Accelerator, GuestFiles, VmConfig, VmError
from kata_host.vm.command_line import plan_command
from kata_host.vm.config_json import dump_config, load_config
from kata_host.vm.ksm import check_ksm
from kata_host.vm.root_image import KINDS, RootDisk, find_root, name_disk, plan_root

GUEST = GuestFiles(Path("/g/vmlinuz"), Path("/g/initrd.img"))
DISK = RootDisk(Path("/g/root,1.erofs"), 8 << 20, "ab" * 32, 6 << 20)


def command(config: VmConfig, disk: RootDisk | None = DISK) -> list[str]:
    return plan_command(
        config, Accelerator("tcg", ""), ("-device", "a-vsock"), Path("/run/vm"), 7, "1700", disk
    )


def words_after(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_the_initrd_is_the_whole_guest() -> None:
    plan = plan_root("initrd", GUEST, None, 0)
    assert (plan.initrd, plan.kernel_args, plan.qemu_args) == (GUEST.initrd, (), ())


def test_a_verified_disk_comes_last_read_only_and_named_behind_the_machines_own() -> None:
    words = command(VmConfig(GUEST, image="erofs", disks=(Path("/d/a"), Path("/d/b"))))
    assert words_after(words, "-initrd") == ["/g/boot.img"]
    kernel = words_after(words, "-append")[0].split()
    assert {"root=/dev/vdc", "rootfstype=erofs", "ro", "rootfs_verity.scheme=dm-verity"} <= set(kernel)
    assert {f"rootfs_verity.hash={'ab' * 32}", f"kata.verity_offset={6 << 20}"} <= set(kernel)
    assert json.loads(words_after(words, "-blockdev")[-1]) == {
        "driver": "raw",
        "node-name": "root",
        "read-only": True,
        "file": {"driver": "file", "filename": "/g/root,1.erofs", "read-only": True},
    }
    assert words_after(words, "-device")[-1] == "virtio-blk-pci,drive=root,serial=root"


def test_shared_memory_is_a_read_only_memory_device_on_the_host_page_cache() -> None:
    words = command(VmConfig(GUEST, image="erofs-dax"))
    kernel = words_after(words, "-append")[0].split()
    assert {"root=/dev/pmem0", "rootfstype=erofs", "rootflags=dax", "ro"} <= set(kernel)
    assert not [word for word in kernel if word.startswith("rootfs_verity")]
    backend = f"memory-backend-file,id=root,mem-path=/g/root,,1.erofs,size={8 << 20},share=on,readonly=on"
    assert words_after(words, "-object")[-1] == backend
    assert words_after(words, "-device")[-1] == "virtio-pmem-pci,memdev=root"


def test_a_persons_own_words_come_after_those_of_the_image() -> None:
    (text,) = words_after(
        command(VmConfig(GUEST, image="erofs-dax", kernel_args=("rootflags=dax=never",))), "-append"
    )
    assert text.endswith(" rootflags=dax=never")


@pytest.mark.parametrize(
    ("number", "name"), [(0, "a"), (25, "z"), (26, "aa"), (27, "ab"), (701, "zz"), (702, "aaa")]
)
def test_disks_are_named_as_linux_names_them(number: int, name: str) -> None:
    assert name_disk(number) == name


def write_guest(folder: Path) -> GuestFiles:
    row = {"file": "root.erofs", "root_hash": "cd" * 32, "hash_offset": 4096}
    (folder / "manifest.json").write_text(json.dumps({"roots": {"erofs": row}}))
    (folder / "root.erofs").write_bytes(bytes(8192))
    (folder / "boot.img").touch()
    return GuestFiles(folder / "vmlinuz", folder / "initrd.img")


def test_the_disk_is_what_the_manifest_says(tmp_path: Path) -> None:
    guest = write_guest(tmp_path)
    disk = RootDisk(tmp_path / "root.erofs", 8192, "cd" * 32, 4096)
    assert find_root("erofs", guest) == disk
    assert find_root("erofs-dax", guest) == disk
    assert find_root("initrd", GUEST) is None


@pytest.mark.parametrize("missing", ["manifest.json", "root.erofs", "boot.img"])
def test_a_guest_without_the_disk_says_what_is_missing(tmp_path: Path, missing: str) -> None:
    guest = write_guest(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(
        VmError, match=rf"no root disk erofs there \(.*{missing}.*\); build one with `kata-image build`"
    ):
        find_root("erofs", guest)


def test_a_file_system_that_was_not_built_and_an_unknown_kind_are_told(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="no root disk ext4 there"):
        find_root("ext4", write_guest(tmp_path))
    with pytest.raises(
        VmError, match="image 'xfs': there is none of that name; use one of initrd, erofs, ext4, erofs-dax"
    ):
        find_root("xfs", write_guest(tmp_path))


def test_the_kind_and_ksm_survive_the_way_to_the_keeper() -> None:
    for kind in KINDS:
        config = VmConfig(GUEST, image=kind, ksm=True)
        assert load_config(dump_config(config)) == config


def test_a_machine_for_ksm_has_private_memory() -> None:
    assert words_after(command(VmConfig(GUEST, ksm=True), None), "-object") == [
        "memory-backend-ram,id=mem,size=512M,merge=on"
    ]


def test_ksm_is_refused_by_what_stands_in_its_way(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="this host's kernel has no KSM"):
        check_ksm((), tmp_path)
    (tmp_path / "run").write_text("0\n")
    with pytest.raises(VmError, match=f"KSM is off on this host .* echo 1 > {tmp_path}/run"):
        check_ksm((), tmp_path)
    (tmp_path / "run").write_text("1\n")
    with pytest.raises(
        VmError, match="memory is shared with vhost-device-vsock and virtiofsd, but KSM merges private memory"
    ):
        check_ksm(("vhost-device-vsock", "virtiofsd"), tmp_path)
    check_ksm((), tmp_path)
