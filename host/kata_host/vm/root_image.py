"""Which image a machine boots: the initramfs that is the whole guest, or a root disk with its small initramfs.

Owns: the kinds by name, what each means for QEMU's and the kernel's command lines, and reading the build's manifest.
Must not know: how QEMU is started. `plan_root` is pure; `find_root` reads the folder of the kernel.

| kind | root | the guest's copy of it in memory |
|---|---|---|
| `initrd` | the initramfs | all of it, in every machine |
| `erofs`, `ext4` | a virtio-blk disk, each block checked by dm-verity | what it read, and it may forget it again |
| `erofs-dax` | a persistent-memory device | none: its pages are the host's page cache, one copy for all machines |

The memory device is virtio-pmem: the guest's driver for ACPI's NVDIMMs gives DAX only to namespaces with a label of
their own. Device-mapper's verity has no DAX, so `erofs-dax` is not checked: its bytes are the host's memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_host.vm.base import GuestFiles, VmError

INITRD = "initrd"
DAX = "erofs-dax"
KINDS = (INITRD, "erofs", "ext4", DAX)
STAGE_NAME = "boot.img"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class RootDisk:
    """A disk as the build's manifest describes it; `size` and `hash_offset` in bytes."""

    file: Path
    size: int
    root_hash: str
    hash_offset: int


@dataclass(frozen=True)
class RootPlan:
    """What a kind adds: the initramfs, words for the kernel, QEMU's arguments."""

    initrd: Path
    kernel_args: tuple[str, ...] = ()
    qemu_args: tuple[str, ...] = ()


def find_root(kind: str, guest: GuestFiles) -> RootDisk | None:
    """The disk of this kind beside the kernel, None for the initrd. VmError: unknown, or not built."""
    if kind == INITRD:
        return None
    if kind not in KINDS:
        raise VmError(f"image {kind!r}: there is none of that name; use one of {', '.join(KINDS)}")
    folder = guest.kernel.parent
    fstype = kind.partition("-")[0]
    try:
        manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_text())
        row = manifest["roots"][fstype]
        file = folder / row["file"]
        disk = RootDisk(file, file.stat().st_size, row["root_hash"], row["hash_offset"])
        (folder / STAGE_NAME).stat()
    except (OSError, KeyError, ValueError) as exc:
        why = f"{type(exc).__name__}: {exc}"
        raise VmError(
            f"{folder}: no root disk {fstype} there ({why}); build one with `kata-image build`"
        ) from exc
    return disk


def plan_root(kind: str, guest: GuestFiles, disk: RootDisk | None, disks_before: int) -> RootPlan:
    """What this kind of image means for a machine that has `disks_before` disks of its own."""
    if disk is None:
        return RootPlan(guest.initrd)
    stage = guest.kernel.parent / STAGE_NAME
    if kind == DAX:
        path = str(disk.file).replace(",", ",,")  # QEMU's own way to write a comma inside a value
        return RootPlan(
            stage,
            ("root=/dev/pmem0", "rootfstype=erofs", "rootflags=dax", "ro"),
            (
                "-object", f"memory-backend-file,id=root,mem-path={path},size={disk.size},share=on,readonly=on",
                "-device", "virtio-pmem-pci,memdev=root",
            ),
        )  # fmt: skip
    # Behind the machine's own disks, which keep their names: /dev/vda is the first of those.
    node = f"/dev/vd{name_disk(disks_before)}"
    drive = {"driver": "raw", "node-name": "root", "read-only": True}
    file = {"driver": "file", "filename": str(disk.file), "read-only": True}
    return RootPlan(
        stage,
        (
            f"root={node}", f"rootfstype={kind}", "ro",
            "rootfs_verity.scheme=dm-verity", f"rootfs_verity.hash={disk.root_hash}",
            f"kata.verity_offset={disk.hash_offset}",
        ),
        (
            "-blockdev", json.dumps({**drive, "file": file}),
            "-device", "virtio-blk-pci,drive=root,serial=root",
        ),
    )  # fmt: skip


def name_disk(number: int) -> str:
    """The letters by which Linux names its disks: a to z, aa, ab, ..."""
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, len(_LETTERS))
        letters = _LETTERS[digit] + letters
    return letters
