"""The calls about volumes, as a host makes them of a running agent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_linux import swap
from kata_protocols.gen import csi_pb2
from kata_testing import loop
from kata_testing.native_agent import CallError, Connection, NativeAgent, start_agent

pytestmark = pytest.mark.requires("root")

BASE = "/run/kata-containers"
PLACE = f"{BASE}/sandbox/ephemeral/cache"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[NativeAgent]:
    with start_agent(tmp_path) as agent:
        yield agent


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as connection:
        yield connection


def cache(*options: str) -> dict[str, object]:
    return {
        "driver": "ephemeral",
        "source": "tmpfs",
        "fstype": "tmpfs",
        "mount_point": PLACE,
        "options": list(options),
    }


def find_line(agent: NativeAgent, path: str) -> str:
    lines = [line for line in agent.mounts().splitlines() if f" {path} " in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_memory_volume_is_given_another_size_and_keeps_its_flags(
    agent: NativeAgent, connection: Connection
) -> None:
    connection.call("CreateSandbox", storages=[cache("nosuid", "size=64k", "fsgid=7")])
    assert "size=64k" in find_line(agent, PLACE)
    connection.call("UpdateEphemeralMounts", storages=[cache("remount", "size=1M", "fsgid=7")])
    line = find_line(agent, PLACE)
    assert "size=1024k" in line
    assert "nosuid" in line
    connection.call("DestroySandbox")


def test_update_mounts_what_is_not_there_and_makes_a_bare_folder_without_options(
    agent: NativeAgent, connection: Connection
) -> None:
    connection.call("CreateSandbox")
    connection.call("UpdateEphemeralMounts", storages=[cache()])
    assert (agent.root / PLACE[1:]).is_dir()
    assert PLACE not in agent.mounts()
    connection.call("UpdateEphemeralMounts", storages=[cache("size=128k")])
    assert "size=128k" in find_line(agent, PLACE)
    connection.call("CreateSandbox")
    assert PLACE not in agent.mounts()


def test_update_is_refused_whole_for_another_driver_and_without_a_mount(
    agent: NativeAgent, connection: Connection
) -> None:
    other = {**cache("remount", "size=1M"), "driver": "blk"}
    with pytest.raises(CallError, match=r"INTERNAL: Unsupported storage type for syncing mounts blk"):
        connection.call("UpdateEphemeralMounts", storages=[cache("size=64k"), other])
    assert PLACE not in agent.mounts()
    with pytest.raises(CallError, match=rf"INTERNAL: remount {PLACE}: nothing is mounted there"):
        connection.call("UpdateEphemeralMounts", storages=[cache("remount", "size=1M")])


def test_update_that_the_kernel_refuses_tells_its_words(agent: NativeAgent, connection: Connection) -> None:
    connection.call("CreateSandbox", storages=[cache("size=64k")])
    with pytest.raises(CallError, match=rf"remount: tmpfs: Bad value for 'size' {PLACE}: EINVAL"):
        connection.call("UpdateEphemeralMounts", storages=[cache("remount", "size=huge")])
    assert "size=64k" in find_line(agent, PLACE)


def test_figures_of_a_volume_follow_what_is_in_it(agent: NativeAgent, connection: Connection) -> None:
    connection.call("CreateSandbox", storages=[cache("size=64k")])
    before = connection.call("GetVolumeStats", volume_guest_path=PLACE)
    size, inodes = before.usage
    assert (size.unit, size.total, size.used) == (csi_pb2.VolumeUsage.BYTES, 65536, 0)
    assert (inodes.unit, inodes.used) == (csi_pb2.VolumeUsage.INODES, 1)
    assert (before.volume_condition.abnormal, before.volume_condition.message) == (False, "OK")
    (agent.root / PLACE[1:] / "file").write_text("x")
    (agent.root / PLACE[1:] / "folder").mkdir()
    size, inodes = connection.call("GetVolumeStats", volume_guest_path=PLACE).usage
    assert (size.used, inodes.used) == (os.sysconf("SC_PAGE_SIZE"), 3)
    assert size.available == size.total - size.used


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{BASE}/none", "ENOENT"),
        (f"{BASE}/../../etc", "without '..'"),
        ("relative", "absolute path"),
    ],
)
def test_figures_of_what_is_not_there_are_refused(connection: Connection, path: str, text: str) -> None:
    connection.call("CreateSandbox")
    with pytest.raises(CallError, match=f"INTERNAL: .*{text}"):
        connection.call("GetVolumeStats", volume_guest_path=path)


def test_resize_of_what_does_not_grow_answers_unimplemented(connection: Connection) -> None:
    connection.call("CreateSandbox", storages=[cache("size=64k")])
    text = rf"UNIMPLEMENTED: resize {PLACE}: a tmpfs cannot be grown, only ext4 and xfs can"
    with pytest.raises(CallError, match=text):
        connection.call("ResizeVolume", volume_guest_path=PLACE, size=1 << 20)
    with pytest.raises(CallError, match=r"INTERNAL: resize .*: nothing is mounted there"):
        connection.call("ResizeVolume", volume_guest_path=f"{PLACE}/none", size=1 << 20)
    with pytest.raises(CallError, match=r"INVALID_ARGUMENT: mount point 'x'"):
        connection.call("ResizeVolume", volume_guest_path="x", size=1)


def test_stale_mounts_are_looked_at_without_a_share_too(connection: Connection) -> None:
    connection.call("RemoveStaleVirtiofsShareMounts")


def test_details_name_the_storage_kinds_that_are_built(connection: Connection) -> None:
    details = connection.call("GetGuestDetails").agent_details
    assert list(details.storage_handlers) == [
        "9p", "bind", "blk", "ephemeral", "image_guest_pull", "local", "mmioblk", "nvdimm", "overlayfs", "scsi",
        "virtio-fs", "watchable-bind",
    ]  # fmt: skip


@pytest.mark.requires("loop")
def test_swap_goes_to_a_path_that_has_a_signature(connection: Connection, tmp_path: Path) -> None:
    image = loop.make_image(tmp_path / "swap", 1 << 20)
    with loop.attach(image) as device:
        with pytest.raises(CallError, match=rf"INTERNAL: swapon {device}: EINVAL"):
            connection.call("AddSwapPath", path=device)
        loop.run("mkswap", device)
        connection.call("AddSwapPath", path=device)
        try:
            assert f"{device} " in Path("/proc/swaps").read_text()
            with pytest.raises(CallError, match=rf"swapon {device}: EBUSY"):
                connection.call("AddSwapPath", path=device)
        finally:
            swap.swap_off(device)
    with pytest.raises(CallError, match="swapon /none: ENOENT"):
        connection.call("AddSwapPath", path="/none")
