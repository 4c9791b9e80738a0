"""Disks with real file systems, and growing them while they are mounted."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_agent.errors import InvalidRequest, NotFound, NotSupported
from kata_agent.log import Log
from kata_agent.mounts import volume
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import FsGroup, StorageRequest
from kata_agent.worker import Worker
from kata_linux import mount, mountinfo
from kata_testing import loop
from kata_testing.private_mounts import mount_points, run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root", "loop")

BASE = "/run/kata-containers"
PLACE = f"{BASE}/sandbox/storage/ZGlzaw"
MIB = 1 << 20
EXT4 = ("mkfs.ext4", "-q")
XFS = ("mkfs.xfs", "-q")


def with_disk(device: str, *storages: StorageRequest, check: object = None) -> None:
    """Mount the storages for a container, look, release: nothing may be left."""

    def body() -> None:
        async def work() -> None:
            registry = Storages(Worker(2), Log(os.open("/dev/null", os.O_WRONLY)))
            names = await registry.mount("c", storages)
            try:
                if callable(check):
                    check()
            finally:
                await registry.release("c", names)
            assert mount_points("/run/") == []
            assert not Path(f"{BASE}/sandbox").exists()

        run_async(work())

    run_in_private_mounts(body)


def test_ext4_disk_is_mounted_by_its_node_with_options_and_group(tmp_path: Path) -> None:
    image = loop.make_image(tmp_path / "disk", 16 * MIB, *EXT4)

    def check() -> None:
        found = mountinfo.find_mount(mountinfo.read_mounts(), PLACE)
        assert found is not None
        assert (found.fstype, found.source) == ("ext4", device)
        assert "nosuid" in found.options
        assert os.stat(PLACE).st_gid == 3000

    with loop.attach(image) as device:
        with_disk(
            device, StorageRequest("blk", device, "ext4", PLACE, ("nosuid",), (), FsGroup(3000)), check=check
        )


@pytest.mark.requires("xfs")
def test_two_xfs_disks_of_one_origin_are_mounted_side_by_side_without_their_uuid(tmp_path: Path) -> None:
    image = loop.make_image(tmp_path / "disk", 320 * MIB, *XFS)
    (tmp_path / "twin").write_bytes(b"")
    loop.run("cp", "--sparse=always", image, tmp_path / "twin")
    with loop.attach(image) as device, loop.attach(tmp_path / "twin") as twin:
        with_disk(
            device,
            StorageRequest("mmioblk", device, "xfs", PLACE, ("nouuid",)),
            StorageRequest("blk", twin, "xfs", f"{PLACE}2", ("nouuid",)),
            check=lambda: Path(f"{PLACE}2/file").write_text("x"),
        )


@pytest.mark.requires("erofs")
def test_erofs_layers_below_an_overlay_make_a_root(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("from the layer")
    loop.run("mkfs.erofs", tmp_path / "layer", tmp_path / "tree")
    upper, work = f"{BASE}/sandbox/rw/upper", f"{BASE}/sandbox/rw/work"
    create = "io.katacontainers.volume.overlayfs.create_directory="

    def check() -> None:
        assert Path(f"{BASE}/sandbox/root/file").read_text() == "from the layer"
        Path(f"{BASE}/sandbox/root/file").write_text("changed")

    with loop.attach(tmp_path / "layer") as device:
        with_disk(
            device,
            StorageRequest("blk", device, "erofs", PLACE, ("ro",)),
            StorageRequest("ephemeral", "tmpfs", "tmpfs", f"{BASE}/sandbox/rw"),
            StorageRequest(
                "overlayfs",
                "overlay",
                "overlay",
                f"{BASE}/sandbox/root",
                (f"lowerdir={PLACE}", f"upperdir={upper}", f"workdir={work}"),
                (f"{create}{upper}", f"{create}{work}"),
            ),
            check=check,
        )


def test_raw_disk_is_bound_on_a_file(tmp_path: Path) -> None:
    image = loop.make_image(tmp_path / "disk", MIB)

    def check() -> None:
        assert os.stat(PLACE).st_rdev == os.stat(device).st_rdev

    with loop.attach(image) as device:
        with_disk(device, StorageRequest("blk", device, "bind", PLACE, ("bind",)), check=check)


@pytest.mark.parametrize(
    ("fstype", "option", "text"),
    [
        ("ext4", "", r"mount ext4; EXT4-fs \(loop\d+\): VFS: Can't find ext4 filesystem: Invalid argument"),
        ("ext4", "data=nonsense", r"mount ext4: ext4: Bad value for 'data': Invalid argument"),
        ("nonsense", "", r"mount nonsense: No such device"),
    ],
)
def test_disk_that_the_kernel_does_not_mount_is_told_and_leaves_nothing(
    tmp_path: Path, fstype: str, option: str, text: str
) -> None:
    image = loop.make_image(tmp_path / "disk", MIB)
    with loop.attach(image) as device:

        def body() -> None:
            async def work() -> None:
                registry = Storages(Worker(2), Log(os.open("/dev/null", os.O_WRONLY)))
                request = StorageRequest("blk", device, fstype, PLACE, (option,) if option else ())
                with pytest.raises(OSError, match=text):
                    await registry.mount("c", [request])
                assert mount_points("/run/") == []
                assert os.listdir(BASE) == []

            run_async(work())

        run_in_private_mounts(body)


def mounted(device: str, fstype: str) -> None:
    os.makedirs(PLACE)
    mount.mount(device, PLACE, fstype)


@pytest.mark.requires("capability:24")  # CAP_SYS_RESOURCE, which ext4 asks for
@pytest.mark.parametrize("size", [0, 24 * MIB])
def test_ext4_grows_while_it_is_mounted(tmp_path: Path, size: int) -> None:
    image = loop.make_image(tmp_path / "disk", 16 * MIB, *EXT4)
    with loop.attach(image) as device:

        def body() -> None:
            mounted(device, "ext4")
            before = volume.read_usage(PLACE)[0].total
            loop.grow(image, device, 32 * MIB)
            volume.resize(PLACE, size)
            grown = volume.read_usage(PLACE)[0].total - before
            assert abs(grown - ((size or 32 * MIB) - 16 * MIB)) < MIB
            volume.resize(PLACE, size)
            with pytest.raises(InvalidRequest, match=r"8388608 bytes: a mounted ext4 cannot be made smaller"):
                volume.resize(PLACE, 8 * MIB)

        run_in_private_mounts(body)


@pytest.mark.requires("xfs")
def test_xfs_grows_while_it_is_mounted(tmp_path: Path) -> None:
    image = loop.make_image(tmp_path / "disk", 320 * MIB, *XFS)
    with loop.attach(image) as device:

        def body() -> None:
            mounted(device, "xfs")
            before = volume.read_usage(PLACE)[0].total
            loop.grow(image, device, 448 * MIB)
            volume.resize(PLACE, 400 * MIB)
            assert volume.read_usage(PLACE)[0].total - before == 80 * MIB
            volume.resize(PLACE, 0)
            assert volume.read_usage(PLACE)[0].total - before == 128 * MIB
            volume.resize(PLACE, 448 * MIB)
            with pytest.raises(InvalidRequest, match=r"a mounted xfs cannot be made smaller"):
                volume.resize(PLACE, 330 * MIB)

        run_in_private_mounts(body)


@pytest.mark.requires("xfs")
def test_resize_beyond_the_disk_or_of_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    image = loop.make_image(tmp_path / "disk", 320 * MIB, *XFS)
    with loop.attach(image) as device:

        def body() -> None:
            mounted(device, "xfs")
            with pytest.raises(InvalidRequest, match=rf"its disk {device} has only {320 * MIB} bytes"):
                volume.resize(PLACE, 321 * MIB)
            mount.remount(PLACE, mount.MS_RDONLY)
            loop.grow(image, device, 384 * MIB)
            with pytest.raises(OSError, match=r"grow xfs: Read-only file system"):
                volume.resize(PLACE, 0)

        run_in_private_mounts(body)


def test_resize_of_what_does_not_grow_is_refused_by_its_kind() -> None:
    def body() -> None:
        os.makedirs(PLACE)
        with pytest.raises(NotFound, match=r"nothing is mounted there"):
            volume.resize(PLACE, 0)
        mount.mount("t", PLACE, "tmpfs")
        with pytest.raises(NotSupported, match=r"a tmpfs cannot be grown, only ext4 and xfs can"):
            volume.resize(PLACE, 0)
        with pytest.raises(InvalidRequest, match=r"without '\.\.'"):
            volume.resize(f"{BASE}/../x", 0)

    run_in_private_mounts(body)
