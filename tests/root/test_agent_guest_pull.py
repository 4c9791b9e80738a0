"""A container whose image the guest pulls, and its secrets: the agent and a hub, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kata_host.message_json import fill_message
from kata_host.spec import ProcessPlan, plan_spec
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.native_agent import OWN_RUN, CallError, Connection, NativeAgent, start_agent
from kata_testing.repository import BUILD, ROOT

pytestmark = pytest.mark.requires("root", "crun")

BASE = "/run/kata-containers"
SOCKET = "/run/confidential-containers/cdh.sock"
SHARE = f"{BASE}/shared/containers"


@contextmanager
def run_hub(agent: NativeAgent) -> Iterator[subprocess.Popen[str]]:
    """The hub, in the agent's mount namespace, with busybox for every image."""
    root = str(BUILD / "rootfs" / "busybox")
    hub = (sys.executable, "-m", "kata_testing.fake_hub", SOCKET, root)
    process = subprocess.Popen(
        ["nsenter", f"--mount=/proc/{agent.process.pid}/ns/mnt", *hub],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        yield process
    finally:
        process.kill()
        process.communicate()
        (agent.root / SOCKET[1:]).unlink()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeAgent]:
    folder = tmp_path_factory.mktemp("agent")
    with start_agent(folder, under=OWN_RUN) as started:
        with started.connect() as connection:
            connection.call("CreateSandbox", sandbox_id="pod")
        yield started


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as opened:
        yield opened


def pull(container_id: str, name: str) -> pb.Storage:
    """As Kata's runtimes send it."""
    metadata = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.image-name": name}
    return pb.Storage(
        driver="image_guest_pull",
        driver_options=["image_guest_pull=" + json.dumps({"metadata": metadata})],
        source=name,
        fstype="overlay",
        mount_point=f"{BASE}/{container_id}/rootfs",
    )


def to_oci(spec: dict[str, object]) -> Any:
    request = pb.CreateContainerRequest()
    fill_message(request.OCI, spec)
    return request.OCI


def create(
    connection: Connection,
    container_id: str,
    name: str,
    *command: str,
    env: tuple[str, ...] = (),
    **more: Any,
) -> None:
    spec = plan_spec(ProcessPlan(command, env=env), f"{BASE}/{container_id}/rootfs", writable=True)
    spec["linux"]["cgroupsPath"] = f"/kata-test-pull-{os.getpid()}/{container_id}"  # type: ignore[index]
    spec["mounts"] += more.pop("mounts", [])  # type: ignore[operator]
    oci = to_oci(spec)
    storages = [pull(container_id, name)]
    connection.call("CreateContainer", container_id=container_id, OCI=oci, storages=storages, **more)


def read_all(connection: Connection, container_id: str) -> bytes:
    said = b""
    while True:
        try:
            said += connection.call("ReadStdout", container_id=container_id, len=32768).data
        except CallError as error:
            if "eof" not in error.message:
                raise
            return said


def run(connection: Connection, container_id: str) -> str:
    connection.call("StartContainer", container_id=container_id)
    said = read_all(connection, container_id)
    connection.call("WaitProcess", container_id=container_id)
    connection.call("RemoveContainer", container_id=container_id)
    return said.decode()


def test_container_runs_in_the_image_that_the_hub_pulled(agent: NativeAgent, connection: Connection) -> None:
    with run_hub(agent) as hub:
        create(connection, "app", "registry/app:1", "sh", "-c", "echo from the image")
        assert hub.stdout is not None
        assert hub.stdout.readline() == f"pull registry/app:1 {BASE}/app\n"
        assert run(connection, "app") == "from the image\n"
        assert f"{BASE}/app" not in agent.mounts()
        assert not (agent.root / BASE[1:] / "app").exists()
        assert (BUILD / "rootfs" / "busybox" / "bin").is_dir()


def test_without_a_hub_the_container_is_refused_and_nothing_is_left(
    agent: NativeAgent, connection: Connection
) -> None:
    with pytest.raises(
        CallError, match="pull image app: no confidential data hub: /usr/local/bin/attestation"
    ):
        create(connection, "none", "app", "true")
    assert f"{BASE}/none" not in agent.mounts()
    assert not (agent.root / BASE[1:] / "none").exists()


def test_pull_that_is_refused_leaves_nothing(agent: NativeAgent, connection: Connection) -> None:
    with (
        run_hub(agent),
        pytest.raises(CallError, match="hub says PERMISSION_DENIED: the image is not signed"),
    ):
        create(connection, "bad", "refuse", "true")
    assert f"{BASE}/bad" not in agent.mounts()
    assert not (agent.root / BASE[1:] / "bad").exists()


def test_secrets_arrive_in_plain_and_those_that_cannot_stay(
    agent: NativeAgent, connection: Connection
) -> None:
    volume = f"{SHARE}/app-0123456789abcdef-secret"
    folder = {"file_mode": 0o40755, "dir_mode": 0o755, "uid": 0, "gid": 0}
    for name, text in {"..v1/key": b"sealed.ytteop", "..v1/plain": b"as it is"}.items():
        fields = {
            "path": f"{volume}/{name}",
            "file_size": len(text),
            "file_mode": 0o100644,
            "dir_mode": 0o755,
        }
        connection.call("CopyFile", data=text, **fields)
    connection.call("CopyFile", path=volume, **folder)
    for name, target in {"..data": "..v1", "key": "..data/key", "plain": "..data/plain"}.items():
        connection.call("CopyFile", path=f"{volume}/{name}", file_mode=0o120777, data=target.encode())
    mount = {"destination": "/tmp/secret", "type": "bind", "source": volume, "options": ["rbind", "ro"]}
    with run_hub(agent):
        create(
            connection,
            "app",
            "image",
            "sh",
            "-c",
            "echo $GOOD $BROKEN; cat /tmp/secret/key /tmp/secret/plain; readlink /tmp/secret/key",
            env=("GOOD=sealed.olleh", "BROKEN=sealed.broken"),
            mounts=[mount],
        )
        said = run(connection, "app")
    assert said == "hello sealed.broken\npoettyas it is..v1/key.unsealed\n"


def test_encrypted_store_is_mounted_before_anything_is_pulled(
    agent: NativeAgent, connection: Connection
) -> None:
    spec = plan_spec(ProcessPlan(("true",)), f"{BASE}/store/rootfs", writable=True)
    spec["linux"]["cgroupsPath"] = f"/kata-test-pull-{os.getpid()}/store"  # type: ignore[index]
    spec["linux"]["devices"] = [  # type: ignore[index]
        {
            "path": "/dev/trusted_store",
            "type": "b",
            "major": 7,
            "minor": 5,
            "fileMode": 0o600,
            "uid": 0,
            "gid": 0,
        }
    ]
    oci = to_oci(spec)
    with run_hub(agent) as hub:
        connection.call("CreateContainer", container_id="store", OCI=oci, storages=[pull("store", "app")])
        assert hub.stdout is not None
        words = "{'dataIntegrity': 'false', 'deviceId': '7:5', 'encryptType': 'LUKS'}"
        assert hub.stdout.readline() == f"mount BlockDevice {words} {BASE}/image/\n"
        assert hub.stdout.readline() == f"pull app {BASE}/store\n"
        connection.call("RemoveContainer", container_id="store")
    assert Path(BUILD).is_dir()
