"""CreateSandbox for real: namespaces, storages, name servers, and that a failure leaves nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_testing.native_agent import OWN_RUN, CallError, Connection, NativeAgent, start_agent

pytestmark = pytest.mark.requires("root")

BASE = "run/kata-containers"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[NativeAgent]:
    with start_agent(tmp_path, under=OWN_RUN) as running:
        yield running


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as opened:
        yield opened


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "file").write_text("content")
    return folder


def bind(source: Path, name: str, *options: str) -> dict[str, object]:
    return {
        "driver": "bind",
        "source": str(source),
        "fstype": "bind",
        "options": ["bind", *options],
        "mount_point": f"/{BASE}/test-{os.getpid()}/{name}",
    }


def place(agent: NativeAgent, name: str) -> Path:
    return agent.root / BASE / f"test-{os.getpid()}" / name


def test_shared_namespaces_are_kept_and_not_the_machine_s(agent: NativeAgent, connection: Connection) -> None:
    connection.call("CreateSandbox", sandbox_id="s", hostname="guest-name")
    for kind in ("ipc", "uts"):
        kept = (agent.root / "run/sandbox-ns" / kind).stat()
        assert kept.st_ino != Path(f"/proc/{agent.process.pid}/ns/{kind}").stat().st_ino
    uts = f"--uts=/proc/{agent.process.pid}/root/run/sandbox-ns/uts"
    name = subprocess.run(
        ["nsenter", uts, "hostname"], capture_output=True, text=True, timeout=30, check=True
    )
    assert name.stdout == "guest-name\n"


def test_bind_with_ro_is_really_read_only(agent: NativeAgent, connection: Connection, volume: Path) -> None:
    connection.call("CreateSandbox", storages=[bind(volume, "ro", "ro"), bind(volume, "rw")])
    assert (place(agent, "ro") / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only file system"):
        (place(agent, "ro") / "new").write_text("x")
    (place(agent, "rw") / "new").write_text("x")
    assert (volume / "new").read_text() == "x"


def test_recursive_read_only_bind_covers_the_mounts_below(
    agent: NativeAgent, connection: Connection, volume: Path
) -> None:
    (volume / "below").mkdir()
    connection.call("CreateSandbox", storages=[bind(volume, "rw"), bind(volume, "rw/below")])
    outer = Path(f"/{BASE}/test-{os.getpid()}/rw")
    connection.call(
        "CreateSandbox",
        storages=[bind(volume, "rw"), bind(volume, "rw/below"), bind(outer, "all", "rbind", "ro")],
    )
    assert (place(agent, "all") / "below/file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only file system"):
        (place(agent, "all") / "below/new").write_text("x")


def test_file_is_bound_on_a_file(agent: NativeAgent, connection: Connection, volume: Path) -> None:
    connection.call("CreateSandbox", storages=[bind(volume / "file", "one-file", "ro")])
    assert place(agent, "one-file").read_text() == "content"


def test_group_is_given_to_the_volume_but_not_through_links(
    agent: NativeAgent, connection: Connection, volume: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    group_before = outside.stat().st_gid
    (volume / "link").symlink_to(outside)
    (volume / "up").symlink_to("..")
    storage = bind(volume, "group") | {"fs_group": {"group_id": 3000}}
    connection.call("CreateSandbox", storages=[storage])
    assert (volume / "file").stat().st_gid == 3000
    assert volume.stat().st_gid == 3000
    assert volume.stat().st_mode & 0o2770 == 0o2770
    assert outside.stat().st_gid == group_before


def test_name_servers_replace_the_file_only_inside(agent: NativeAgent, connection: Connection) -> None:
    outside = Path("/etc/resolv.conf")
    if not outside.exists():
        pytest.skip("this machine has no /etc/resolv.conf")
    before = outside.read_bytes()
    connection.call("CreateSandbox", dns=["nameserver 192.0.2.7 ", "search x"])
    assert (agent.root / "etc/resolv.conf").read_text() == "nameserver 192.0.2.7\nsearch x"
    assert outside.read_bytes() == before


def test_failed_create_leaves_nothing(agent: NativeAgent, connection: Connection, volume: Path) -> None:
    before = agent.mounts()
    with pytest.raises(CallError, match="INTERNAL: Failed to find the storage handler nonsense"):
        connection.call(
            "CreateSandbox",
            dns=["nameserver 192.0.2.7"],
            storages=[bind(volume, "a"), bind(volume, "b") | {"driver": "nonsense"}],
        )
    assert agent.mounts() == before
    assert not place(agent, "a").exists()
    assert not (agent.root / "run/sandbox-ns").exists()


def test_source_that_is_not_there_is_told_with_its_errno(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"absent: ENOENT: No such file or directory"):
        connection.call("CreateSandbox", storages=[bind(tmp_path / "absent", "x")])


def test_second_create_starts_afresh(agent: NativeAgent, connection: Connection, volume: Path) -> None:
    connection.call("CreateSandbox", sandbox_id="one", storages=[bind(volume, "first")])
    connection.call("CreateSandbox", sandbox_id="two", storages=[bind(volume, "second")])
    assert not place(agent, "first").exists()
    assert (place(agent, "second") / "file").read_text() == "content"
    assert agent.mounts().count("/run/sandbox-ns/ipc") == 1


def test_one_mount_point_cannot_be_two_storages(connection: Connection, volume: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="already used for source"):
        connection.call("CreateSandbox", storages=[bind(volume, "x"), bind(tmp_path, "x")])


def test_mount_point_behind_a_planted_link_is_refused(
    agent: NativeAgent, connection: Connection, volume: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    link = place(agent, "link")
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(CallError, match=r"ELOOP|ENOTDIR"):
        connection.call("CreateSandbox", storages=[bind(volume, "link/x")])
    assert os.listdir(victim) == []
    assert str(victim) not in agent.mounts()


def test_destroyed_sandbox_leaves_the_machine_as_it_was(tmp_path: Path, volume: Path) -> None:
    (tmp_path / "other").mkdir()
    with start_agent(tmp_path / "other", under=OWN_RUN) as agent, agent.connect() as connection:
        fd = os.open(agent.root / "run", os.O_PATH)  # outlives its mount
        run = Path(f"/proc/self/fd/{fd}")
        connection.call("CreateSandbox", dns=["nameserver 192.0.2.7"], storages=[bind(volume, "x")])
        assert (run / "sandbox-ns").exists()
        assert (run / f"kata-containers/test-{os.getpid()}").exists()
        connection.call("DestroySandbox")
        agent.wait()
    assert sorted(os.listdir(run)) == ["kata-agent", "kata-containers"]  # which all agents share
    assert os.listdir(run / "kata-containers") == []
    os.close(fd)
    assert (volume / "file").read_text() == "content"
