"""Option words and mount plans: what is decided before anything is mounted."""

from __future__ import annotations

from typing import Any

import pytest

from kata_agent.errors import InvalidRequest, NotSupported
from kata_agent.mounts import apply, ops, option, plan
from kata_agent.mounts.storage.driver import find_driver
from kata_agent.mounts.storage.request import FsGroup, StorageRequest
from kata_linux import mount

SHARE = StorageRequest("virtio-fs", "kataShared", "virtiofs", "/run/kata-containers/shared/containers/")


def bind(*options: str) -> StorageRequest:
    return StorageRequest("bind", "/src", "bind", "/run/kata-containers/x", options)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), option.MountOptions()),
        (("defaults",), option.MountOptions()),
        (("ro", "rw"), option.MountOptions()),
        (("rw", "ro"), option.MountOptions(option.RDONLY)),
        (("rbind", "", "ro"), option.MountOptions(option.BIND | option.REC | option.RDONLY, 0, "")),
        (("nosuid", "size=1", "mode=1777"), option.MountOptions(option.NOSUID, 0, "size=1,mode=1777")),
        (("a", "", "b"), option.MountOptions(0, 0, "a,,b")),
        (("bind", "rslave"), option.MountOptions(option.BIND, option.SLAVE | option.REC)),
        (("io.katacontainers.fs-opt.overlay-rw", "x"), option.MountOptions(0, 0, "x")),
        (("noatime", "atime"), option.MountOptions()),
    ],
)
def test_words_come_to_flags_propagation_and_data(
    words: tuple[str, ...], expected: option.MountOptions
) -> None:
    assert option.parse_options(words) == expected


def test_every_word_agrees_with_its_opposite() -> None:
    for name, (sets, _) in option.WORDS.items():
        opposite = option.WORDS.get(f"no{name}")
        if sets == 0 and opposite is not None:
            assert option.WORDS[name][1] == opposite[0], name


def test_loop_and_overlong_data_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="invalid mount option: loop"):
        option.parse_options(["loop"])
    with pytest.raises(InvalidRequest, match="Mount option exceeds 4K size"):
        option.parse_options(["x" * 4096])


def test_flag_values_are_the_kernel_facade_s() -> None:
    names = [name for name in vars(option) if name.isupper() and hasattr(mount, f"MS_{name}")]
    assert len(names) > 15
    assert {name: getattr(option, name) for name in names} == {
        name: getattr(mount, f"MS_{name}") for name in names
    }


def test_share_is_a_directory_and_a_mount_with_its_data() -> None:
    found = plan.plan_mount(SHARE._replace(options=("nodev", "dax")), plan.Observation())
    assert found == (
        ops.MakeDirectory(SHARE.mount_point),
        ops.MountFilesystem("kataShared", SHARE.mount_point, "virtiofs", option.NODEV, "dax"),
    )


def test_file_system_of_the_same_type_on_top_is_done_already() -> None:
    assert plan.plan_mount(SHARE, plan.Observation(mounted_fstype="virtiofs")) == ()
    assert plan.plan_mount(SHARE, plan.Observation(mounted_fstype="tmpfs")) != ()


def test_read_only_bind_sets_the_flag_that_bind_itself_ignores() -> None:
    found = plan.plan_mount(bind("bind", "ro", "nosuid"), plan.Observation())
    assert found[1:] == (
        ops.BindMount("/src", "/run/kata-containers/x"),
        ops.SetFlags("/run/kata-containers/x", option.RDONLY | option.NOSUID),
    )


def test_recursive_bind_is_read_only_all_the_way_down_and_propagates_as_asked() -> None:
    found = plan.plan_mount(bind("rbind", "ro", "rslave"), plan.Observation())
    assert found[1:] == (
        ops.BindMount("/src", "/run/kata-containers/x", recursive=True),
        ops.SetFlags("/run/kata-containers/x", option.RDONLY, recursive=True),
        ops.SetPropagation("/run/kata-containers/x", option.SLAVE, recursive=True),
    )


def test_file_is_bound_on_a_file() -> None:
    assert plan.plan_mount(bind("bind"), plan.Observation(source_is_directory=False))[0] == ops.MakeFile(
        "/run/kata-containers/x"
    )


def test_remount_is_done_even_where_the_same_type_is_mounted() -> None:
    request = StorageRequest("ephemeral", "tmpfs", "tmpfs", "/run/kata-containers/e", ("remount", "size=5M"))
    assert plan.plan_mount(request, plan.Observation(mounted_fstype="tmpfs")) == (
        ops.Remount("/run/kata-containers/e", 0, "size=5M"),
    )


def test_remount_changes_the_mount_s_own_flags_only_where_they_are_named() -> None:
    request = StorageRequest(
        "ephemeral", "tmpfs", "tmpfs", "/run/kata-containers/e", ("remount", "nosuid", "ro")
    )
    assert plan.plan_mount(request, plan.Observation()) == (
        ops.Remount("/run/kata-containers/e", option.NOSUID | option.RDONLY, ""),
        ops.SetFlags("/run/kata-containers/e", option.NOSUID | option.RDONLY),
    )


def test_what_is_mounted_already_still_gets_its_group() -> None:
    request = SHARE._replace(fs_group=FsGroup(7))
    assert plan.plan_mount(request, plan.Observation(mounted_fstype="virtiofs")) == (
        ops.ChangeGroup(SHARE.mount_point, 7),
    )


@pytest.mark.parametrize(
    ("flags", "data", "expected"),
    [
        (0, "", []),
        (option.RDONLY | option.NOSUID, "size=1", [("ro", None), ("size", "1")]),
        (0, "a,,b=", [("a", None), ("b", "")]),
        (0, "=x,k=v=w", [("k", "v=w")]),
        (option.SYNCHRONOUS | option.DIRSYNC, "", [("sync", None), ("dirsync", None)]),
    ],
)
def test_data_is_split_as_the_kernel_splits_it(
    flags: int, data: str, expected: list[tuple[str, str | None]]
) -> None:
    assert option.split_parameters(flags, data) == expected


def test_group_is_changed_after_the_mount_with_the_mask_of_the_options() -> None:
    request = SHARE._replace(options=("ro",), fs_group=FsGroup(3000, on_mismatch_only=True))
    assert plan.plan_mount(request, plan.Observation())[-1] == ops.ChangeGroup(
        SHARE.mount_point, 3000, read_only=True, on_mismatch_only=True
    )


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("source", "", "need mount source"),
        ("mount_point", "", "need mount destination"),
        ("fstype", "", "need mount FS type"),
        ("mount_point", "/", "absolute path below /"),
        ("mount_point", "relative", "absolute path"),
        ("mount_point", "/run/../etc", "without '..'"),
    ],
)
def test_request_that_no_mount_can_be_made_of_is_refused(field: str, value: str, text: str) -> None:
    changed: dict[str, Any] = {field: value}
    with pytest.raises(InvalidRequest, match=text):
        plan.plan_mount(SHARE._replace(**changed), plan.Observation())


@pytest.mark.parametrize("name", ["nonsense", ""])
def test_storage_kind_that_is_not_built_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotSupported, match=f"^Failed to find the storage handler {name}"):
        find_driver(name)


@pytest.mark.parametrize(
    "op",
    [
        ops.MakeDirectory("/a/b"),
        ops.MakeFile("/a/b"),
        ops.MountFilesystem("s", "/a/b", "tmpfs", 0, "size=1"),
        ops.Remount("/a/b"),
        ops.BindMount("/s", "/a/b", recursive=True),
        ops.SetFlags("/a/b", 1),
        ops.SetPropagation("/a/b", option.SLAVE),
        ops.ChangeGroup("/a/b", 5),
        ops.MakeVolume("/a/b"),
        ops.SetAccess("/a/b", 5, None, 0o2000),
    ],
)
def test_every_operation_says_in_words_where_it_works(op: ops.Op) -> None:
    assert "/a/b" in ops.describe(op)


def test_access_time_words_clear_the_whole_field_first() -> None:
    assert apply.attributes(option.NOATIME) == (0x10, 0x70)
    assert apply.attributes(option.RDONLY | option.NODIRATIME) == (0x81, 0)
    assert apply.attributes(option.RELATIME | option.NOSYMFOLLOW) == (0x200000, 0x70)
