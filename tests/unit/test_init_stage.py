"""PID 1's first stage: the plan from the kernel's words, the wait for the disk, the emptied initramfs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kata_init import stage
from kata_init.journal import Journal
from kata_init.root_plan import ModuleLine, RootPlan, list_needs, parse_modules, plan_root

HASH = "ab" * 32
VERITY = ("rootfs_verity.scheme=dm-verity", f"rootfs_verity.hash={HASH}", "kata.verity_offset=8192")


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        (("root=/dev/vda", "rootfstype=ext4"), RootPlan("/dev/vda", "ext4")),
        (("root=/dev/vda", "rootfstype=erofs", "rw"), RootPlan("/dev/vda", "erofs", read_only=False)),
        (("root=/dev/vda", "rw", "root=/dev/vdb", "rootfstype=erofs", "ro"), RootPlan("/dev/vdb", "erofs")),
        (("root=/dev/vda", "rootfstype=erofs", "kata.root_wait=2"), RootPlan("/dev/vda", "erofs", wait_s=2)),
        # What Kata's runtime writes for an image on persistent memory.
        (
            ("root=/dev/pmem0p1", "rootflags=dax,data=ordered,errors=remount-ro", "ro", "rootfstype=ext4"),
            RootPlan("/dev/pmem0p1", "ext4", "dax,data=ordered,errors=remount-ro"),
        ),
        (
            ("quiet", "root=/dev/vdb", "rootfstype=erofs", "ro", *VERITY, "agent.log=debug"),
            RootPlan("/dev/vdb", "erofs", "", True, HASH, 8192),
        ),
    ],
)
def test_the_root_is_what_the_kernels_words_say(words: tuple[str, ...], plan: RootPlan) -> None:
    assert plan_root(words) == plan


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "root=: the kernel command line must name the root disk"),
        (
            ("root=LABEL=x", "rootfstype=ext4"),
            "root=LABEL=x: the kernel command line must name the root disk, /dev/NAME",
        ),
        (("root=/dev/vda",), "rootfstype=: missing beside root=/dev/vda"),
        (("root=/dev/vda", "rootfstype=erofs", *VERITY[:1]), "rootfs_verity.hash=: missing"),
        (
            ("root=/dev/vda", "rootfstype=erofs", *VERITY[1:]),
            "rootfs_verity.scheme=: only dm-verity is known",
        ),
        (
            ("root=/dev/vda", "rootfstype=erofs", *VERITY[:2]),
            "kata.verity_offset=: a whole number from 1 to",
        ),
        (
            ("root=/dev/vda", "rootfstype=erofs", *VERITY, "kata.verity_offset=-1"),
            "kata.verity_offset=-1: a whole number",
        ),
        (
            ("root=/dev/vda", "rootfstype=erofs", *VERITY, "rw"),
            "rw: a root that is checked by dm-verity is read-only",
        ),
        (
            ("root=/dev/vda", "rootfstype=erofs", "kata.root_wait=1.5"),
            "kata.root_wait=1.5: a whole number from 1 to 3600 is needed",
        ),
    ],
)
def test_a_root_that_cannot_be_is_told_by_its_word(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        plan_root(words)


def test_only_the_modules_that_the_disk_needs_are_asked_for() -> None:
    assert list_needs(RootPlan("/dev/vda", "ext4")) == ("disk", "ext4")
    assert list_needs(RootPlan("/dev/pmem0", "erofs")) == ("pmem", "erofs")
    assert list_needs(RootPlan("/dev/vdb", "erofs", root_hash=HASH)) == ("disk", "erofs", "verity")
    assert parse_modules("disk /a.ko\n\nbroken\npmem /b.ko\n") == [
        ModuleLine("disk", "/a.ko"),
        ModuleLine("pmem", "/b.ko"),
    ]


def test_the_disk_is_waited_for_until_its_node_appears(tmp_path: Path) -> None:
    watched = threading.Event()

    def appear() -> None:
        watched.wait(30)
        (tmp_path / "other").touch()
        (tmp_path / "vdz").touch()

    thread = threading.Thread(target=appear)
    thread.start()
    watched.set()
    try:
        stage.wait_for_disk(str(tmp_path / "vdz"), 30)
    finally:
        thread.join()


def test_a_disk_that_never_comes_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(
        TimeoutError, match=rf"root disk {tmp_path}/vdz: not there after 0.05 s; disks that are: \w+"
    ):
        stage.wait_for_disk(str(tmp_path / "vdz"), 0.05)


def test_the_initramfs_is_emptied_without_following_links_or_crossing_mounts(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").touch()
    (root / "link").symlink_to(kept)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        stage.remove_tree(fd, device=-1)
        assert sorted(path.name for path in root.iterdir()) == ["a", "link"], (
            "another file system is left alone"
        )
        stage.remove_tree(fd, os.fstat(fd).st_dev)
    finally:
        os.close(fd)
    assert list(root.iterdir()) == []
    assert (kept / "file").exists()


def test_the_next_pid_1_hears_of_the_stages_steps() -> None:
    journal = Journal()
    journal.recall("stage start=12;root mounted=34;;broken;x=y")
    assert journal.steps == [("stage start", 12), ("root mounted", 34)]
