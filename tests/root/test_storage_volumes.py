"""Volumes of the pod, overlays, groups: real mounts in private namespaces, and nothing of them left."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kata_agent.errors import AgentError, InvalidRequest
from kata_agent.log import Log
from kata_agent.mounts import group, ops
from kata_agent.mounts.apply import apply_plan
from kata_agent.mounts.storage import overlay
from kata_agent.mounts.storage.journal import Journal
from kata_agent.mounts.storage.registry import Storages
from kata_agent.mounts.storage.request import FsGroup, StorageRequest
from kata_agent.worker import Worker
from kata_linux import hugepages, mount, mountinfo
from kata_testing.private_mounts import mount_points, run_in_private_mounts
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root")

BASE = "/run/kata-containers"
CACHE = StorageRequest("ephemeral", "tmpfs", "tmpfs", f"{BASE}/sandbox/ephemeral/cache")
PAGE = 2 << 20
HUGE = CACHE._replace(source="nodev", fstype="hugetlbfs", options=(f"pagesize={PAGE},size={2 * PAGE}",))


def make_storages(journal: Journal | None = None) -> Storages:
    return Storages(Worker(4), Log(os.open("/dev/null", os.O_WRONLY)), journal)


def in_private_mounts(body: Callable[[Storages], Coroutine[Any, Any, None]]) -> None:
    def run() -> None:
        async def work() -> None:
            await body(make_storages())

        run_async(work())

    run_in_private_mounts(run)


def find(path: str) -> mountinfo.Mount:
    found = mountinfo.find_mount(mountinfo.read_mounts(), path)
    assert found is not None, f"{path} is not mounted: {mount_points(BASE)}"
    return found


def test_shared_memory_is_as_large_and_as_safe_as_it_was_asked_for() -> None:
    async def body(storages: Storages) -> None:
        options = ("noexec", "nosuid", "nodev", "mode=1777", "size=65536")
        shm = StorageRequest("ephemeral", "shm", "tmpfs", f"{BASE}/sandbox/shm", options)
        names = await storages.mount("", [shm])
        found = find(f"{BASE}/sandbox/shm")
        assert {"noexec", "nosuid", "nodev"} <= set(found.options)
        assert "size=64k" in found.super_options
        assert stat.S_IMODE(os.stat(found.mount_point).st_mode) == 0o1777
        await storages.release("", names)
        assert mount_points(BASE) == []
        assert not Path(f"{BASE}/sandbox").exists()

    in_private_mounts(body)


def test_volume_of_the_pod_outlives_the_container_that_came_first_and_goes_with_the_pod() -> None:
    async def body(storages: Storages) -> None:
        names = await storages.mount("a", [CACHE._replace(options=("fsgid=3000",))])
        storages.keep("a")
        root = os.stat(names[0])
        assert (root.st_gid, root.st_mode & stat.S_ISGID) == (3000, stat.S_ISGID)
        Path(f"{names[0]}/data").write_text("kept")
        await storages.release("a", names)
        await storages.mount("b", [CACHE])
        assert Path(f"{names[0]}/data").read_text() == "kept"
        await storages.release("b", names)
        assert mount_points(BASE) == [CACHE.mount_point]
        await storages.release_kept()
        assert mount_points(BASE) == []
        assert not Path(f"{BASE}/sandbox").exists()

    in_private_mounts(body)


def test_volume_of_a_container_that_was_never_made_is_undone() -> None:
    async def body(storages: Storages) -> None:
        place = StorageRequest("local", "local", "local", f"{BASE}/local", ("mode=0777",))
        names = await storages.mount("a", [CACHE, place])
        Path(f"{BASE}/local/left").mkdir()
        Path(f"{BASE}/local/left/file").write_text("x")
        await storages.release("a", names)
        assert mount_points(BASE) == []
        assert os.listdir(BASE) == []

    in_private_mounts(body)


def test_local_volume_has_group_and_mode_and_is_removed_with_its_data() -> None:
    async def body(storages: Storages) -> None:
        place = StorageRequest("local", "local", "local", f"{BASE}/p/local", ("mode=0770", "fsgid=44"))
        names = await storages.mount("a", [place])
        found = os.stat(f"{BASE}/p/local")
        assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (44, 0o2770)
        storages.keep("a")
        await storages.release("a", names)
        (Path(f"{BASE}/p/local") / "file").write_text("x")
        await storages.release_kept()
        assert not Path(f"{BASE}/p").exists()

    in_private_mounts(body)


def test_local_volume_in_a_folder_that_was_there_leaves_it() -> None:
    async def body(storages: Storages) -> None:
        os.makedirs(f"{BASE}/there")
        Path(f"{BASE}/there/file").write_text("mine")
        names = await storages.mount("a", [StorageRequest("local", "local", "local", f"{BASE}/there")])
        await storages.release("a", names)
        assert Path(f"{BASE}/there/file").read_text() == "mine"

    in_private_mounts(body)


@pytest.mark.requires("hugepages")
def test_huge_pages_are_added_for_each_volume_and_go_back_with_it() -> None:
    async def body(storages: Storages) -> None:
        before = hugepages.read_pool(PAGE)
        other = HUGE._replace(mount_point=f"{BASE}/other", options=(f"pagesize={PAGE}", f"size={PAGE}"))
        try:
            first = await storages.mount("a", [HUGE])
            second = await storages.mount("b", [other])
            assert hugepages.read_pool(PAGE) == before + 3
            assert "pagesize=2M" in find(HUGE.mount_point).super_options
            await storages.release("a", first)
            assert hugepages.read_pool(PAGE) == before + 1
            await storages.release("b", second)
            assert hugepages.read_pool(PAGE) == before
            with pytest.raises(OSError, match="mount hugetlbfs"):
                await storages.mount("a", [HUGE._replace(options=(*HUGE.options, "nonsense"))])
            assert hugepages.read_pool(PAGE) == before
            assert mount_points(BASE) == []
        finally:
            hugepages.write_pool(PAGE, before)

    in_private_mounts(body)


@pytest.mark.requires("hugepages")
def test_huge_pages_go_back_after_the_agent_was_killed() -> None:
    async def body(storages: Storages) -> None:
        before = hugepages.read_pool(PAGE)
        try:
            names = await make_storages(Journal("/run/journal")).mount("a", [HUGE])
            assert hugepages.read_pool(PAGE) == before + 2
            after = make_storages(Journal("/run/journal"))
            after.adopt("a", names)
            await after.sweep()
            assert mount_points(BASE) == [HUGE.mount_point]
            await after.release("a", names)
            assert hugepages.read_pool(PAGE) == before
            assert mount_points(BASE) == []
            assert os.listdir("/run/journal") == []
        finally:
            hugepages.write_pool(PAGE, before)

    in_private_mounts(body)


def test_agent_killed_while_it_mounted_leaves_nothing_that_the_next_one_does_not_undo() -> None:
    async def body(_: Storages) -> None:
        killed = make_storages(Journal("/run/journal"))
        await killed.mount("gone", [CACHE._replace(mount_point=f"{BASE}/half")])
        kept = await killed.mount("done", [CACHE])
        killed.keep("done")
        intent = Journal("/run/journal")
        intent.take()
        os.makedirs(f"{BASE}/never")
        intent.intend(f"{BASE}/never")
        after = make_storages(Journal("/run/journal"))
        after.adopt("other", ())
        await after.sweep()
        assert mount_points(BASE) == list(kept)
        await after.release_kept()
        assert mount_points(BASE) == []
        assert os.listdir("/run/journal") == []

    in_private_mounts(body)


def test_overlay_gets_a_writable_layer_of_its_own_that_goes_with_it() -> None:
    async def body(storages: Storages) -> None:
        os.makedirs(f"{BASE}/layer")
        Path(f"{BASE}/layer/below").write_text("below")
        root = StorageRequest(
            "overlayfs", "overlay", "none", f"{BASE}/c/rootfs", (f"lowerdir={BASE}/layer", overlay.MARKER)
        )
        names = await storages.mount("c", [root])
        Path(f"{BASE}/c/rootfs/above").write_text("above")
        assert Path(f"{BASE}/c/rootfs/below").read_text() == "below"
        assert Path(f"{BASE}/c/upper/above").exists()
        await storages.release("c", names)
        assert mount_points(BASE) == []
        assert os.listdir(BASE) == ["layer"]
        assert os.listdir(f"{BASE}/layer") == ["below"]

    in_private_mounts(body)


def test_layers_and_the_overlay_on_them_are_released_in_reverse_order() -> None:
    async def body(storages: Storages) -> None:
        layer = StorageRequest("virtio-fs", "layer", "tmpfs", f"{BASE}/layers/0")
        upper, work = f"{BASE}/layers/0/u", f"{BASE}/layers/0/w"
        root = StorageRequest(
            "overlayfs",
            "overlay",
            "overlay",
            f"{BASE}/c/rootfs",
            ("lowerdir=/etc", f"upperdir={upper}", f"workdir={work}"),
            tuple(f"{overlay.CREATE_DIRECTORY}{path}" for path in (upper, work)),
        )
        names = await storages.mount("c", [layer, root])
        assert mount_points(BASE) == [f"{BASE}/layers/0", f"{BASE}/c/rootfs"]
        Path(f"{BASE}/c/rootfs/new").write_text("x")
        await storages.release("c", names)
        assert mount_points(BASE) == []
        assert os.listdir(BASE) == []

    in_private_mounts(body)


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        (
            CACHE._replace(options=("size=bogus",)),
            r"mount tmpfs: tmpfs: Bad value for 'size': Invalid argument",
        ),
        (
            CACHE._replace(options=("nope",)),
            r"mount tmpfs: tmpfs: Unknown parameter 'nope': Invalid argument",
        ),
        (CACHE._replace(driver="9p", source="tag", fstype="no9p"), r"mount no9p: No such device"),
    ],
)
def test_refused_mount_is_told_in_the_kernel_s_own_words_and_leaves_nothing(
    storage: StorageRequest, text: str
) -> None:
    async def body(storages: Storages) -> None:
        with pytest.raises(OSError, match=text) as caught:
            await storages.mount("a", [storage])
        assert caught.value.filename == storage.mount_point
        assert mount_points(BASE) == []
        assert os.listdir(BASE) == []

    in_private_mounts(body)


def test_remount_changes_the_size_and_leaves_the_flags_that_it_does_not_name() -> None:
    def body() -> None:
        os.makedirs(f"{BASE}/e")
        mount.mount("t", f"{BASE}/e", "tmpfs", mount.MS_NOSUID | mount.MS_NOEXEC, "size=64k")
        apply_plan((ops.Remount(f"{BASE}/e", 0, "size=128k"),))
        found = find(f"{BASE}/e")
        assert "size=128k" in found.super_options
        assert {"nosuid", "noexec"} <= set(found.options)

    run_in_private_mounts(body)


@pytest.mark.parametrize("where", ["link/x", "../outside/x", "file/x"])
def test_mount_point_through_a_link_or_out_of_the_base_is_refused(where: str) -> None:
    async def body(storages: Storages) -> None:
        os.makedirs(BASE)
        os.mkdir("/run/outside")
        os.symlink("/run/outside", f"{BASE}/link")
        Path(f"{BASE}/file").write_text("")
        with pytest.raises((OSError, InvalidRequest)):
            await storages.mount("a", [CACHE._replace(mount_point=f"{BASE}/{where}")])
        assert os.listdir("/run/outside") == []
        assert mount_points("/run/") == []

    in_private_mounts(body)


def test_folder_swapped_for_a_link_meanwhile_moves_no_mount() -> None:
    """Between the making of a mount point and the mount, what the driver planned is replaced."""

    def body() -> None:
        os.makedirs(f"{BASE}/a")
        os.makedirs("/run/outside")
        os.rmdir(f"{BASE}/a")
        os.symlink("/run/outside", f"{BASE}/a")
        with pytest.raises(OSError, match="openat2"):
            apply_plan((ops.MountFilesystem("t", f"{BASE}/a", "tmpfs"),))
        assert mount_points("/run/") == []

    run_in_private_mounts(body)


def make_volume(root: str) -> None:
    os.makedirs(f"{root}/sub/deep")
    Path(f"{root}/file").write_text("x")
    os.chmod(f"{root}/file", 0o4701)
    Path(f"{root}/sub/deep/file").write_text("x")
    os.mkfifo(f"{root}/pipe", 0o600)
    os.symlink("/run/outside", f"{root}/evil")
    os.symlink("..", f"{root}/sub/up")


@pytest.mark.parametrize(("read_only", "bits"), [(False, 0o660), (True, 0o440)])
def test_group_is_handed_everything_but_what_links_lead_to(*, read_only: bool, bits: int) -> None:
    def body() -> None:
        os.makedirs("/run/outside/in")
        make_volume("/run/v")
        before = os.stat("/run/outside")
        group.change_group("/run/v", 3000, read_only=read_only, on_mismatch_only=False)
        for path in ("", "sub", "sub/deep"):
            found = os.stat(f"/run/v/{path}")
            assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (3000, 0o755 | bits | 0o2110), path
        assert stat.S_IMODE(os.stat("/run/v/file").st_mode) == 0o4701 | bits
        assert stat.S_IMODE(os.stat("/run/v/pipe").st_mode) == 0o600 | bits
        assert os.stat("/run/v/sub/deep/file").st_gid == 3000
        assert os.lstat("/run/v/evil").st_gid == 0
        after = os.stat("/run/outside")
        assert (after.st_gid, after.st_mode) == (before.st_gid, before.st_mode)

    run_in_private_mounts(body)


def test_group_is_changed_on_mismatch_only_when_the_root_is_wrong() -> None:
    def body() -> None:
        make_volume("/run/v")
        group.change_group("/run/v", 3000, read_only=False, on_mismatch_only=True)
        os.chown("/run/v/file", 0, 0)
        group.change_group("/run/v", 3000, read_only=False, on_mismatch_only=True)
        assert os.stat("/run/v/file").st_gid == 0
        os.chmod("/run/v", 0o775)  # noqa: S103 - one bit less than wanted
        group.change_group("/run/v", 3000, read_only=False, on_mismatch_only=True)
        assert os.stat("/run/v/file").st_gid == 3000
        os.chown("/run/v/file", 0, 0)
        group.change_group("/run/v", 3000, read_only=False, on_mismatch_only=False)
        assert os.stat("/run/v/file").st_gid == 3000

    run_in_private_mounts(body)


def test_group_reaches_the_bottom_of_a_tree_deeper_than_a_stack() -> None:
    def body() -> None:
        os.mkdir("/run/v")
        here = os.open("/run/v", os.O_PATH)
        for _ in range(900):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_PATH, dir_fd=here)
            os.close(here)
            here = below
        group.change_group("/run/v", 3000, read_only=False, on_mismatch_only=False)
        assert os.fstat(here).st_gid == 3000

    run_in_private_mounts(body)


def test_group_comes_with_the_storage() -> None:
    async def body(storages: Storages) -> None:
        volume = StorageRequest("virtio-fs", "v", "tmpfs", f"{BASE}/v", fs_group=FsGroup(3000))
        await storages.mount("a", [volume])
        found = os.stat(f"{BASE}/v")
        assert found.st_gid == 3000
        assert found.st_mode & 0o2770 == 0o2770

    in_private_mounts(body)


def test_bind_of_a_source_that_is_not_there_is_refused_by_its_name() -> None:
    async def body(storages: Storages) -> None:
        os.makedirs(f"{BASE}/t")
        with pytest.raises((OSError, AgentError), match="No such file"):
            await storages.mount("a", [StorageRequest("bind", "/nowhere", "bind", f"{BASE}/t")])
        assert os.listdir(BASE) == ["t"]

    in_private_mounts(body)
