"""Disks that are checked, partitions, and layered roots: what the host's words come to before anything is mounted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from kata_agent.errors import InvalidRequest, NotSupported
from kata_agent.mounts import ops, option, undo
from kata_agent.mounts.storage import layers, overlay, verified
from kata_agent.mounts.storage.journal import Entry, Journal
from kata_agent.mounts.storage.request import StorageRequest
from kata_agent.services.storage import decode_storages
from kata_images.verity import BLOCK_BYTES, make_hash_tree
from kata_linux.modules import find_load_order
from kata_linux.verity import Verity
from kata_protocols.gen import agent_pb2

ROOT = "/run/kata-containers/c/rootfs"
HASH = "ab" * 32
WORDS = (
    "X-kata.dmverity-enabled=true",
    f"X-kata.dmverity.roothash={HASH}",
    "X-kata.dmverity.hashoffset=12288",
)


@pytest.fixture
def make_disk(tmp_path: Path) -> Callable[[int], tuple[str, str]]:
    def make(blocks: int) -> tuple[str, str]:
        tree = make_hash_tree(b"d" * (blocks * BLOCK_BYTES), salt=b"salt", uuid=UUID(int=7))
        (tmp_path / "disk").write_bytes(b"d" * (blocks * BLOCK_BYTES) + tree.area)
        return str(tmp_path / "disk"), tree.root_hash

    return make


def test_a_checked_disk_is_mounted_read_only_through_a_device_that_checks_it(
    make_disk: Callable[[int], tuple[str, str]],
) -> None:
    disk, root_hash = make_disk(3)
    words = (
        "X-kata.dmverity-enabled=true",
        f"X-kata.dmverity.roothash={root_hash.upper()}",
        WORDS[2],
        "noatime",
        "rw",
    )
    device, folder, mounted = verified.plan_disk(StorageRequest("blk", disk, "erofs", ROOT, words))
    assert isinstance(device, ops.CheckedDevice)
    assert device.source == disk
    assert device.verity == Verity(root_hash, 3, 4, 4096, 4096, "sha256", b"salt".hex())
    assert device.name.startswith("kata-verity-")
    assert folder == ops.MakeDirectory(ROOT)
    assert mounted == ops.MountFilesystem(
        f"/dev/mapper/{device.name}", ROOT, "erofs", option.NOATIME | option.RDONLY, ""
    )


def test_two_devices_never_share_a_name(make_disk: Callable[[int], tuple[str, str]]) -> None:
    disk, root_hash = make_disk(3)
    words = (WORDS[0], f"X-kata.dmverity.roothash={root_hash}", WORDS[2])
    plans = [verified.plan_disk(StorageRequest("blk", disk, "erofs", ROOT, words)) for _ in range(2)]
    names = {plan[0].name for plan in plans if isinstance(plan[0], ops.CheckedDevice)}
    assert len(names) == 2


def test_without_a_superblock_the_hosts_words_describe_the_tree(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(20480))
    wanted = verified.find_wanted([*WORDS, "X-kata.dmverity.no-superblock=true", "X-kata.dmverity.salt=00ff"])
    assert wanted is not None
    assert verified.resolve(wanted, str(tmp_path / "disk")) == Verity(
        HASH, 3, 3, 4096, 4096, "sha256", "00ff"
    )
    wanted = verified.find_wanted([*WORDS, "X-kata.dmverity.blocksize=512", "X-kata.dmverity.hashsize=1024"])
    assert wanted is not None
    assert verified.resolve(wanted, str(tmp_path / "disk")) == Verity(HASH, 24, 12, 512, 1024, "sha256", "")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("X-kata.dmverity.salt=aa", "the host says salt=aa, the disk's superblock 73616c74"),
        ("X-kata.dmverity.blocksize=512", "the host says blocksize=512, the disk's superblock 4096"),
    ],
)
def test_a_superblock_that_says_other_than_the_host_is_refused(
    make_disk: Callable[[int], tuple[str, str]], word: str, text: str
) -> None:
    disk, root_hash = make_disk(3)
    words = (WORDS[0], f"X-kata.dmverity.roothash={root_hash}", WORDS[2], word)
    with pytest.raises(InvalidRequest, match=text):
        verified.plan_disk(StorageRequest("blk", disk, "erofs", ROOT, words))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (WORDS[:1], "X-kata.dmverity.roothash=: missing"),
        (WORDS[:2], "X-kata.dmverity.hashoffset=: missing"),
        (WORDS[1:2], "X-kata.dmverity.hashoffset=: missing"),
        (("X-kata.dmverity-enabled=false", *WORDS[1:]), "X-kata.dmverity-enabled=false: only true is known"),
        ((*WORDS, "X-kata.dmverity.blocksize=-4"), "X-kata.dmverity.blocksize=-4: a whole number"),
        ((*WORDS, "X-kata.dmverity.hashtype=md5"), "hash 'md5' is none of"),
        ((WORDS[0], "X-kata.dmverity.roothash=xyz", WORDS[2]), "'xyz': 32 bytes in hexadecimal is needed"),
        (("X-kata.gpt-partitioned=true",), "X-kata.gpt-partitioned=true without X-kata.partition-number=N"),
        (("X-kata.partition-number=0",), "X-kata.partition-number=0: a whole number from 1 to 128"),
    ],
)
def test_words_that_cannot_be_right_are_refused_and_nothing_is_mounted(
    tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    (tmp_path / "disk").write_bytes(bytes(20480))
    with pytest.raises(InvalidRequest, match=text):
        verified.plan_disk(StorageRequest("blk", str(tmp_path / "disk"), "erofs", ROOT, words))


@pytest.mark.parametrize(
    "word", ["X-kata.mkfs=true", "X-kata.encryption", "X-kata.dmverity_enabled=true", "X-kata.multi-layer=1"]
)
def test_a_word_that_is_not_known_is_refused_not_ignored(word: str) -> None:
    with pytest.raises(NotSupported, match=f"storage option '{word}': this agent does not know it"):
        verified.plan_disk(StorageRequest("blk", "/dev/vda", "ext4", ROOT, (word,)))


@pytest.mark.parametrize(
    ("disk", "node"),
    [("/dev/vdb", "/dev/vdb3"), ("/dev/nvme0n1", "/dev/nvme0n1p3"), ("/dev/pmem0", "/dev/pmem0p3")],
)
def test_a_partition_is_named_as_linux_names_it(disk: str, node: str) -> None:
    words = ["X-kata.gpt-partitioned=true", "X-kata.partition-number=3"]
    assert verified.find_node(disk, words) == node
    assert verified.find_node(disk, []) == disk


# As Kata's own nydus hosts send it.
INFO = {
    "hashtype": "sha256",
    "hash": HASH,
    "blocknum": 2361,
    "blocksize": 512,
    "hashsize": 4096,
    "offset": 1212416,
}


def test_a_dmverity_volume_is_a_disk_with_words() -> None:
    message = agent_pb2.Storage(
        driver="dmverity",
        source="02/03",
        fstype="erofs",
        mount_point=ROOT,
        driver_options=["source_type=virtio_pci", f"verity_info={json.dumps(INFO)}"],
        options=["ro"],
    )
    (request,) = decode_storages([message])
    assert (request.driver, request.source) == ("blk", "02/03")
    wanted = verified.find_wanted([word for word in request.options if word.startswith("X-kata.")])
    assert wanted == verified.Wanted(HASH, 1212416, 512, 4096, None, True, 2361, "sha256")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "source_type=: use one of virtio_pci"),
        (["source_type=virtio_pci"], "verity_info: JSONDecodeError"),
        (["source_type=scsi", "verity_info={}"], "verity_info: KeyError: 'hash'"),
        (["source_type=pmem", "verity_info=[]"], "verity_info: TypeError"),
        (["source_type=pmem", "verity_info=" + "[" * 100000], "verity_info: RecursionError"),
        (["source_type=pmem", 'verity_info={"hash": "a", "offset": 1e999}'], "verity_info: OverflowError"),
    ],
)
def test_a_dmverity_volume_without_its_description_is_refused(options: list[str], text: str) -> None:
    message = agent_pb2.Storage(driver="dmverity", source="x", mount_point=ROOT, driver_options=options)
    with pytest.raises(InvalidRequest, match=text):
        decode_storages([message])


def layer(source: str, fstype: str, *words: str) -> StorageRequest:
    return StorageRequest("mmioblk", source, fstype, ROOT, (*words, "X-kata.multi-layer=true"))


def test_layers_are_mounted_apart_and_become_one_overlay_where_they_all_wanted_to_be() -> None:
    other = StorageRequest("local", "local", "local", "/run/kata-containers/x")
    mkdir = "X-kata.mkdir.path={{ mount 0 }}/data:0700"
    storages = [
        layer("/dev/vda", "ext4", "rw", "X-kata.overlay-upper", mkdir),
        other,
        layer("/dev/vdb", "erofs", "ro", "X-kata.overlay-lower", *WORDS),
        layer("/dev/vdc", "erofs", "ro", "X-kata.overlay-lower"),
    ]
    base = "/run/kata-containers/c/multi-layer"
    folded = layers.fold("c", storages)
    assert [(each.source, each.mount_point, each.options) for each in folded[:3]] == [
        ("/dev/vda", f"{base}/upper", ("rw",)),
        ("/dev/vdb", f"{base}/lower-0", ("ro", *WORDS)),
        ("/dev/vdc", f"{base}/lower-1", ("ro",)),
    ]
    root = folded[3]
    assert (root.driver, root.mount_point) == ("overlayfs", ROOT)
    assert folded[4] == other
    plan = overlay.plan_storage(root)
    lower, upper, work = f"{base}/lower-0:{base}/lower-1", f"{base}/upper/upper", f"{base}/upper/work"
    assert plan == (
        ops.MakeDirectory(upper, lasting=True),
        ops.MakeDirectory(work, lasting=True),
        ops.MakeDirectory(f"{base}/upper/data", lasting=True),
        ops.MakeDirectory(ROOT),
        ops.MountFilesystem(
            "overlay", ROOT, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}"
        ),
    )


def test_layers_without_a_writable_one_get_one_in_the_guests_memory() -> None:
    *_, root = layers.fold("c", [layer("/dev/vdb", "erofs", "X-kata.overlay-lower")])
    plan = overlay.plan_storage(root._replace(user="c"))
    assert ops.MakeVolume("/run/kata-containers/c/upper") in plan
    assert ops.MakeVolume("/run/kata-containers/c/work") in plan


@pytest.mark.parametrize(
    ("user", "storages", "text"),
    [
        ("", [layer("/dev/vdb", "erofs")], "only a container has a root of layers"),
        ("c", [layer("/dev/vda", "ext4")], r"none is read-only \(X-kata.overlay-lower\)"),
        (
            "c",
            [layer("/dev/vda", "ext4"), layer("/dev/vdb", "xfs", "X-kata.overlay-upper")],
            "2 are writable",
        ),
        (
            "c",
            [layer("/dev/vda", "ext4", "X-kata.mkdir.path={{ mount 0 }}/../x"), layer("/dev/vdb", "erofs")],
            "only folders of the writable layer",
        ),
        (
            "c",
            [layer("/dev/vda", "ext4", "X-kata.mkdir.path=/etc"), layer("/dev/vdb", "erofs")],
            "only folders of the writable layer",
        ),
    ],
)
def test_layers_that_are_no_root_are_refused(user: str, storages: list[StorageRequest], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        layers.fold(user, storages)


def test_what_undoes_a_checked_disk_survives_the_agent(tmp_path: Path) -> None:
    steps = (undo.CloseChecked("kata-verity-1"), undo.Unmount(ROOT, perhaps=True))
    Journal(str(tmp_path / "journal")).write(Entry(ROOT, steps))
    assert [entry.steps for entry in Journal(str(tmp_path / "journal")).take()] == [steps]


DEP = """\
kernel/drivers/md/dm-mod.ko.xz: kernel/drivers/dax/dax.ko
kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz
"""


def test_a_module_is_loaded_after_what_it_needs() -> None:
    folder = "kernel/drivers/md"
    assert find_load_order(DEP, "dm_verity") == [
        f"{folder}/dm-mod.ko.xz",
        f"{folder}/dm-bufio.ko.xz",
        f"{folder}/dm-verity.ko.xz",
    ]
    assert find_load_order(DEP, "dm") == []
