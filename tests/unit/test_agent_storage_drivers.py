"""Storage drivers' plans and words: what each kind of volume comes to, before anything is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_agent.errors import Exhausted, InvalidRequest, Malformed, NotSupported
from kata_agent.mounts import hugepool, ops, option, undo
from kata_agent.mounts.storage import block, ephemeral, local, overlay
from kata_agent.mounts.storage.access import parse_gid, parse_mode
from kata_agent.mounts.storage.driver import find_driver
from kata_agent.mounts.storage.journal import Entry, Journal
from kata_agent.mounts.storage.request import FsGroup, StorageRequest

PLACE = "/run/kata-containers/sandbox/ephemeral/cache"
TMPFS = StorageRequest("ephemeral", "tmpfs", "tmpfs", PLACE)
HUGE = TMPFS._replace(source="nodev", fstype="hugetlbfs")
LOCAL = StorageRequest("local", "local", "local", PLACE)
OVERLAY = StorageRequest("overlayfs", "overlay", "overlay", "/run/kata-containers/c/rootfs", user="c")


def test_every_option_of_a_memory_volume_counts_but_fsgid() -> None:
    options = ("noexec", "nosuid", "nodev", "mode=1777", "size=67108864", "fsgid=3000")
    assert ephemeral.plan_storage(TMPFS._replace(options=options)) == (
        ops.MakeDirectory(PLACE),
        ops.MountFilesystem(
            "tmpfs", PLACE, "tmpfs", option.NOEXEC | option.NOSUID | option.NODEV, "mode=1777,size=67108864"
        ),
        ops.SetAccess(PLACE, 3000, None, 0o2000),
    )


def test_huge_pages_are_reserved_before_the_mount_which_keeps_its_words() -> None:
    request = HUGE._replace(options=("pagesize=2097152,size=6291457",))
    assert ephemeral.plan_storage(request) == (
        ops.ReservePages(2097152, 3),
        ops.MakeDirectory(PLACE),
        ops.MountFilesystem("nodev", PLACE, "hugetlbfs", 0, "pagesize=2097152,size=6291457"),
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("pagesize=2097152,size=4194304",), (2097152, 4194304)),
        (("size=4194304", "pagesize=2097152"), (2097152, 4194304)),
        (("rw,size=4", "pagesize=2,x=1"), (2, 4)),
    ],
)
def test_sizes_are_found_in_any_order(options: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert ephemeral.parse_sizes(options) == expected


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("size=1",),
        ("pagesize=1",),
        ("pagesize=1,size-1=2",),
        ("pagesize=2M,size=4",),
        (f"pagesize={'1' * 5000},size=4",),
        ("pagesize=0,size=4",),
    ],
)
def test_sizes_that_are_missing_or_no_numbers_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"huge pages: (page)?size="):
        ephemeral.parse_sizes(options)


def test_key_with_two_equal_signs_is_none_and_the_last_one_wins() -> None:
    assert parse_gid(("fsgid=1", "fsgid=2", "fsgid=3=4", "x")) == 2
    assert parse_mode(("mode=0777", "mode=750")) == 0o750
    assert parse_gid(("gid=1",)) is None


@pytest.mark.parametrize(
    "word", ["fsgid=", "fsgid=-1", "fsgid=4294967295", "fsgid=x", "mode=8", "mode=", "mode=70000"]
)
def test_group_or_mode_that_is_none_is_refused_by_name(word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        local.plan_storage(LOCAL._replace(options=(word,)))


@pytest.mark.parametrize(
    ("options", "access"),
    [
        ((), None),
        (("mode=0777",), ops.SetAccess(PLACE, -1, 0o777, 0)),
        (("fsgid=5",), ops.SetAccess(PLACE, 5, None, 0)),
        (("mode=0777", "fsgid=5"), ops.SetAccess(PLACE, 5, 0o777, 0o2000)),
    ],
)
def test_local_volume_is_a_folder_with_the_access_asked_for(
    options: tuple[str, ...], access: ops.SetAccess | None
) -> None:
    expected = (ops.MakeVolume(PLACE),) + ((access,) if access else ())
    assert local.plan_storage(LOCAL._replace(options=options)) == expected


def test_marker_makes_a_writable_layer_and_does_not_reach_the_kernel() -> None:
    planned = overlay.plan_storage(
        OVERLAY._replace(fstype="none", options=("lowerdir=/a:/b", overlay.MARKER))
    )
    base = "/run/kata-containers/c"
    assert planned == (
        ops.MakeVolume(f"{base}/upper"),
        ops.MakeVolume(f"{base}/work"),
        ops.MakeDirectory(f"{base}/rootfs"),
        ops.MountFilesystem(
            "overlay",
            f"{base}/rootfs",
            "overlay",
            0,
            f"lowerdir=/a:/b,upperdir={base}/upper,workdir={base}/work",
        ),
    )


def test_folders_of_an_overlay_are_made_first_and_lie_where_they_say() -> None:
    words = tuple(f"{overlay.CREATE_DIRECTORY}/run/kata-containers/c/{name}" for name in ("u", "w"))
    planned = overlay.plan_storage(OVERLAY._replace(driver_options=(*words, "other=1")))
    assert [op for op in planned if isinstance(op, ops.MakeDirectory)][:2] == [
        ops.MakeDirectory("/run/kata-containers/c/u"),
        ops.MakeDirectory("/run/kata-containers/c/w"),
    ]
    with pytest.raises(InvalidRequest, match=r"without '..'"):
        overlay.plan_storage(OVERLAY._replace(driver_options=(f"{overlay.CREATE_DIRECTORY}/run/../etc",)))
    with pytest.raises(InvalidRequest, match="only a container's storage"):
        overlay.plan_storage(OVERLAY._replace(options=(overlay.MARKER,), user=""))


@pytest.mark.parametrize(
    ("driver", "source", "text"),
    [
        ("blk", "2/0", "block device at PCI path 02.0/00.0"),
        ("scsi", "1:0", "SCSI disk 1:0"),
        ("mmioblk", "/dev/vdb", "block device /dev/vdb"),
        ("nvdimm", "/dev/pmem0", "block device /dev/pmem0"),
    ],
)
def test_disk_is_waited_for_by_its_address(driver: str, source: str, text: str) -> None:
    matcher = block.find_matcher(driver, source)
    assert matcher is not None
    assert matcher.text == text


def test_disk_of_blk_by_its_node_must_be_there() -> None:
    assert block.find_matcher("blk", "/dev/vda") is None


@pytest.mark.parametrize(
    ("driver", "source"), [("blk", "vda"), ("scsi", "0000:00:01.0"), ("mmioblk", "02"), ("nvdimm", "pmem0")]
)
def test_wrong_address_is_refused(driver: str, source: str) -> None:
    with pytest.raises(Malformed, match=source):
        block.find_matcher(driver, source)


@pytest.mark.parametrize("name", ["ccw", "blk-ccw"])
def test_disk_of_another_kind_of_machine_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        NotSupported, match=f"^Failed to find the storage handler {name}: CCW devices are those of s390x"
    ):
        find_driver(name)


@pytest.mark.parametrize("node", ["/dev/null", "/dev"])
def test_what_is_no_block_device_is_refused(node: str) -> None:
    source = node if node != "/dev" else "/dev/fd"
    with pytest.raises(InvalidRequest, match=f"^Invalid device {source}: not a block device"):
        block.check_device(source)


def test_disk_that_is_not_there_is_told() -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid device /dev/none-such: there is none"):
        block.check_device("/dev/none-such")


class Pools:
    """A kernel with a pool of 2 MiB pages that finds room for so many, and for more once it was compacted."""

    def __init__(self, pages: int, room: int, room_compacted: int = 0) -> None:
        self.pages = pages
        self.room = room
        self._room_compacted = room_compacted

    def list_sizes(self) -> list[int]:
        return [2 << 20]

    def read_pool(self, page_size: int) -> int:
        assert page_size == 2 << 20
        return self.pages

    def write_pool(self, page_size: int, pages: int) -> None:
        assert page_size == 2 << 20
        self.pages = min(pages, self.room)

    def compact(self) -> None:
        self.room = max(self.room, self._room_compacted)


def test_pages_are_added_to_the_pool_and_taken_from_it_again() -> None:
    kernel = Pools(pages=3, room=100)
    hugepool.reserve(2 << 20, 4, kernel)
    assert kernel.pages == 7
    hugepool.give_back(2 << 20, 3, kernel)
    assert kernel.pages == 4
    hugepool.give_back(2 << 20, 9, kernel)
    assert kernel.pages == 0


def test_page_size_that_the_kernel_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(
        InvalidRequest, match=r"pagesize=4096: the kernel has no huge pages .*it has: 2097152"
    ):
        hugepool.reserve(4096, 1, Pools(0, 9))


def test_memory_is_compacted_before_a_volume_is_refused() -> None:
    kernel = Pools(pages=1, room=3, room_compacted=6)
    hugepool.reserve(2 << 20, 5, kernel)
    assert kernel.pages == 6


def test_pool_that_cannot_grow_enough_is_left_as_it_was() -> None:
    kernel = Pools(pages=2, room=5)
    with pytest.raises(Exhausted, match=r"^Only allocated 3 of 8 hugepages of size 2097152$"):
        hugepool.reserve(2 << 20, 8, kernel)
    assert kernel.pages == 2


def test_steps_survive_being_written_down() -> None:
    steps = (
        undo.Unmount("/a b"),
        undo.Unmount("/c", perhaps=True),
        undo.RemoveDirectory("/d"),
        undo.RemoveFile("/e"),
        undo.RemoveTree("/f"),
        undo.ReturnPages(2097152, 3),
    )
    assert undo.decode(undo.encode(steps)) == steps


def test_journal_gives_back_once_what_was_written_last_and_not_removed(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"))
    journal.intend("/a")
    journal.write(Entry("/b", (undo.RemoveTree("/b"),), kept=True))
    journal.write(Entry("/a", (undo.Unmount("/a"),)))
    journal.intend("/c")
    journal.remove("/c")
    journal.remove("/never")
    after = Journal(str(tmp_path / "j"))
    assert list(after.take()) == [
        Entry("/a", (undo.Unmount("/a"),)),
        Entry("/b", (undo.RemoveTree("/b"),), kept=True),
    ]
    assert list(after.take()) == []
    after.intend("/d")
    after.remove("/a")
    assert [entry.name for entry in Journal(str(tmp_path / "j")).take()] == ["/b", "/d"]


def test_group_of_a_volume_comes_before_its_fsgid() -> None:
    planned = ephemeral.plan_storage(TMPFS._replace(options=("fsgid=3",), fs_group=FsGroup(4)))
    assert planned[-2:] == (ops.ChangeGroup(PLACE, 4), ops.SetAccess(PLACE, 3, None, 0o2000))
