"""Storages that cannot be: the status and the text of each, and that nothing of it is left. With a real agent."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kata_host.message_json import fill_message
from kata_host.spec import ProcessPlan, plan_spec
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.native import list_fds
from kata_testing.native_agent import OWN_RUN, CallError, Connection, NativeAgent, start_agent
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "crun")

BASE = "/run/kata-containers"
GOOD = pb.Storage(
    driver="ephemeral", source="tmpfs", fstype="tmpfs", mount_point=f"{BASE}/sandbox/ephemeral/first"
)
OVERLAY = "io.katacontainers.volume.overlayfs.create_directory="


def storage(driver: str, source: str, fstype: str, where: str, *options: str, **more: object) -> pb.Storage:
    fields = {"driver": driver, "source": source, "fstype": fstype, "options": options, **more}
    return pb.Storage(mount_point=f"{BASE}/{where}" if where else "", **fields)  # type: ignore[arg-type]


ROWS = {
    "unknown driver": (
        storage("nonsense", "x", "x", "x"),
        "Failed to find the storage handler nonsense: there is none of that name",
    ),
    "driver of another machine": (
        storage("blk-ccw", "0.0.0005", "ext4", "x"),
        "Failed to find the storage handler blk-ccw: CCW devices are those of s390x",
    ),
    "option that the file system does not take": (
        storage("ephemeral", "tmpfs", "tmpfs", "x", "size=banana"),
        f"mount tmpfs: tmpfs: Bad value for 'size' {BASE}/x: EINVAL: Invalid argument",
    ),
    "file system that the kernel does not have": (
        storage("virtio-fs", "kataShared2", "nonsensefs", "x"),
        f"mount nonsensefs {BASE}/x: ENODEV: No such device",
    ),
    "no source": (storage("virtio-fs", "", "virtiofs", "x"), "need mount source"),
    "no destination": (storage("virtio-fs", "tag", "virtiofs", ""), "need mount destination"),
    "no type": (storage("virtio-fs", "tag", "", "x"), "need mount FS type"),
    "mount point that climbs": (
        storage("ephemeral", "tmpfs", "tmpfs", "../../etc/x"),
        f"mount point '{BASE}/../../etc/x': an absolute path below / without '..' is needed",
    ),
    "mount point behind a link": (
        storage("ephemeral", "tmpfs", "tmpfs", "planted/x"),
        f"make folders {BASE}/planted/x: ENOTDIR: Not a directory",
    ),
    "local volume behind a link": (
        storage("local", "local", "local", "planted/x"),
        f"make folders {BASE}/planted/x: ENOTDIR: Not a directory",
    ),
    "bind of what a link leads to": (
        storage("bind", f"{BASE}/planted", "bind", "x"),
        f"bind mount {BASE}/planted {BASE}/x: ELOOP: Too many levels of symbolic links",
    ),
    "bind of nothing": (
        storage("bind", f"{BASE}/none", "bind", "x"),
        f"bind mount {BASE}/none: ENOENT: No such file or directory",
    ),
    "mirror of what a link leads to": (
        storage("watchable-bind", f"{BASE}/planted", "bind", "shared/containers/watchable/x"),
        f"{BASE}/planted: ELOOP",
    ),
    "mirror of nothing": (
        storage("watchable-bind", f"{BASE}/none", "bind", "shared/containers/watchable/x"),
        f"{BASE}/none: ENOENT",
    ),
    "overlay whose folder climbs": (
        storage("overlayfs", "overlay", "overlay", "x", driver_options=[f"{OVERLAY}{BASE}/../../etc/made"]),
        "without '..' is needed",
    ),
    "overlay without layers": (storage("overlayfs", "overlay", "overlay", "x"), f"{BASE}/x: EINVAL"),
    "image elsewhere than in the bundle": (
        storage("image_guest_pull", "app", "overlay", "x", driver_options=["image_guest_pull={}"]),
        f"image_guest_pull: mount point '{BASE}/x': {BASE}/cc/rootfs is needed",
    ),
    "group that is no number": (
        storage("ephemeral", "tmpfs", "tmpfs", "x", "fsgid=wheel"),
        "fsgid=wheel: a group's number is needed",
    ),
    "group for what cannot be written": (
        storage("virtio-fs", "x", "tmpfs", "x", "ro", fs_group=pb.FSGroup(group_id=5)),
        f"give to group 5 {BASE}/x: EROFS: Read-only file system",
    ),
    "huge pages without a size": (
        storage("ephemeral", "nodev", "hugetlbfs", "x", "pagesize=2097152"),
        "huge pages: size=BYTES is needed among the options ['pagesize=2097152']",
    ),
    "mount point that is used for something else": (
        storage("virtio-fs", "other", "tmpfs", "sandbox/ephemeral/first"),
        f"mount point {BASE}/sandbox/ephemeral/first: already used for source 'tmpfs'",
    ),
    "loop": (storage("virtio-fs", "x", "tmpfs", "x", "loop"), "invalid mount option: loop"),
}  # fmt: skip


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeAgent]:
    with start_agent(tmp_path_factory.mktemp("agent"), under=OWN_RUN) as started:
        with started.connect() as connection:
            connection.call("CreateSandbox", sandbox_id="pod")
        (started.root / BASE[1:] / "planted").symlink_to("/run/victim")
        (started.root / "run/victim").mkdir()
        yield started


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as opened:
        yield opened


def look(agent: NativeAgent) -> tuple[str, list[str], list[str], list[str]]:
    """All that a storage could leave."""
    base = agent.root / BASE[1:]
    found = sorted(str(path.relative_to(base)) for path in base.rglob("*"))
    mounts = "\n".join(line for line in agent.mounts().splitlines() if BASE in line)
    fds = [fd for fd in list_fds(agent.process.pid) if "socket" not in fd]
    return mounts, found, fds, os.listdir(agent.root / "run/victim")


@pytest.mark.parametrize("row", ROWS)
def test_storage_that_cannot_be_is_refused_by_name_and_leaves_nothing(
    agent: NativeAgent, connection: Connection, row: str
) -> None:
    bad, text = ROWS[row]
    before = look(agent)
    request = pb.CreateContainerRequest()
    fill_message(request.OCI, plan_spec(ProcessPlan(("true",)), str(BUILD / "rootfs" / "busybox")))
    with pytest.raises(CallError) as caught:
        connection.call("CreateContainer", container_id="cc", OCI=request.OCI, storages=[GOOD, bad])
    assert caught.value.code == 13  # INTERNAL: as in Kata's agent
    assert text in caught.value.message
    assert look(agent) == before


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (f"{BASE}/none", 13, f"resize {BASE}/none: nothing is mounted there"),
        ("/proc", 12, "a proc cannot be grown, only ext4 and xfs can"),
        ("", 3, "absolute"),
    ],
)
def test_volume_that_cannot_be_resized_is_named(
    connection: Connection, path: str, status: int, text: str
) -> None:
    with pytest.raises(CallError) as caught:
        connection.call("ResizeVolume", volume_guest_path=path, size=1 << 30)
    assert (caught.value.code, text in caught.value.message) == (status, True), caught.value
