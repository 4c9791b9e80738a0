"""`shared_mounts` of CreateContainer: what one container mounts is seen in another, with a real agent."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kata_host.message_json import fill_message
from kata_host.spec import CAPABILITIES, ProcessPlan, plan_spec
from kata_linux import inotify
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.native_agent import OWN_RUN, CallError, Connection, NativeAgent, start_agent
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "crun")

ROOT = str(BUILD / "rootfs" / "busybox")
NAME = "io.kubernetes.cri.container-name"
MAY_MOUNT = ProcessPlan(("sleep", "1000"), capabilities=(*CAPABILITIES, "CAP_SYS_ADMIN"))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeAgent]:
    with start_agent(tmp_path_factory.mktemp("agent"), under=OWN_RUN) as started:
        with started.connect() as connection:
            connection.call("CreateSandbox", sandbox_id="pod")
        yield started


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as opened:
        yield opened
        for container_id in ("source", "target"):
            try:
                opened.call("RemoveContainer", container_id=container_id)
            except CallError as error:
                if "Invalid container id" not in error.message:
                    raise


def create(connection: Connection, container_id: str, plan: ProcessPlan, **more: Any) -> None:
    spec = plan_spec(plan, ROOT)
    spec["linux"]["cgroupsPath"] = group_of(container_id)  # type: ignore[index]
    spec["annotations"] = {NAME: f"k8s-{container_id}"}
    # Below a tmpfs: nothing of a test must be made in the root that all of them use.
    spec["mounts"] += [{"destination": "/mnt", "type": "tmpfs", "source": "mnt", "options": ["mode=755"]}]  # type: ignore[operator]
    request = pb.CreateContainerRequest()
    fill_message(request.OCI, spec)
    connection.call("CreateContainer", container_id=container_id, OCI=request.OCI, **more)
    connection.call("StartContainer", container_id=container_id)


def group_of(container_id: str) -> str:
    return f"/kata-test-shared-{os.getpid()}/{container_id}"


def shared(**changes: str) -> pb.SharedMount:
    fields = {
        "name": "fuse",
        "src_ctr": "k8s-source",
        "src_path": "/mnt/inner",
        "dst_ctr": "k8s-target",
        "dst_path": "/mnt/deep/below",
    }
    return pb.SharedMount(**{**fields, **changes})


def run(connection: Connection, container_id: str, exec_id: str, *command: str) -> int:
    process = pb.CreateContainerRequest()
    fill_message(process.OCI, plan_spec(ProcessPlan(command, capabilities=MAY_MOUNT.capabilities), ROOT))
    connection.call("ExecProcess", container_id=container_id, exec_id=exec_id, process=process.OCI.Process)
    return int(connection.call("WaitProcess", container_id=container_id, exec_id=exec_id).status)


MOUNT = "mkdir -p /mnt/inner && mount -t tmpfs inner /mnt/inner && echo from the other > /mnt/inner/file"


def test_mount_of_one_container_is_seen_in_another(connection: Connection) -> None:
    create(connection, "source", MAY_MOUNT)
    assert run(connection, "source", "mount", "sh", "-c", MOUNT) == 0
    create(connection, "target", MAY_MOUNT, shared_mounts=[shared()])
    assert run(connection, "target", "look", "grep", "-q", "from the other", "/mnt/deep/below/file") == 0
    assert run(connection, "target", "write", "sh", "-c", "echo back > /mnt/deep/below/answer") == 0
    assert run(connection, "source", "read", "grep", "-q", "back", "/mnt/inner/answer") == 0


def test_mount_that_comes_later_is_waited_for(agent: NativeAgent, connection: Connection) -> None:
    late = ProcessPlan(
        ("sh", "-c", f"mkfifo /mnt/go; echo; read go < /mnt/go; {MOUNT}; sleep 1000"),
        capabilities=MAY_MOUNT.capabilities,
    )
    create(connection, "source", late)
    assert connection.call("ReadStdout", container_id="source", len=1).data == b"\n"  # the pipe is there
    gate = agent.root / "proc" / first_process(agent, "source") / "root" / "mnt" / "go"
    fd = inotify.open_inotify()
    inotify.add_watch(fd, str(agent.root / "run/kata-containers"), inotify.IN_CREATE)

    def let_go() -> None:
        select.select([fd], [], [], 20)  # the target is being made
        gate.write_text("go\n")

    opener = threading.Thread(target=let_go)
    opener.start()
    with agent.connect() as other:
        create(other, "target", MAY_MOUNT, shared_mounts=[shared()])
    opener.join()
    os.close(fd)
    assert run(connection, "target", "look", "test", "-e", "/mnt/deep/below/file") == 0


def first_process(agent: NativeAgent, container_id: str) -> str:
    group = agent.root / "sys/fs/cgroup" / group_of(container_id)[1:]
    return (group / "cgroup.procs").read_text().split()[0]


def test_unknown_container_is_left_out(connection: Connection) -> None:
    create(connection, "target", MAY_MOUNT, shared_mounts=[shared(src_ctr="k8s-nobody")])
    assert run(connection, "target", "look", "test", "-e", "/mnt/deep") == 1


def test_file_is_shared_onto_a_file(connection: Connection) -> None:
    create(connection, "source", MAY_MOUNT)
    bind = "echo one file > /mnt/a && touch /mnt/b && mount -o bind /mnt/a /mnt/b"
    assert run(connection, "source", "mount", "sh", "-c", bind) == 0
    one = shared(src_path="/mnt/b", dst_path="/mnt/x/b")
    create(connection, "target", MAY_MOUNT, shared_mounts=[one])
    assert run(connection, "target", "look", "grep", "-q", "one file", "/mnt/x/b") == 0


def test_links_of_a_container_lead_nowhere_but_into_it(agent: NativeAgent, connection: Connection) -> None:
    create(connection, "source", MAY_MOUNT)
    assert run(connection, "source", "mount", "sh", "-c", f"{MOUNT}; ln -s /../../etc /mnt/out") == 0
    one = shared(dst_path="/mnt/../etc/x")
    with pytest.raises(
        CallError, match=r"shared mount 'fuse': path '/mnt/\.\./etc/x': an absolute one below /"
    ):
        create(connection, "target", MAY_MOUNT, shared_mounts=[one])
    assert "inner" not in [line.split(" - ")[1].split()[1] for line in agent.mounts().splitlines()]


def test_mount_that_cannot_be_made_there_fails_the_call_and_leaves_nothing(
    agent: NativeAgent, connection: Connection
) -> None:
    create(connection, "source", MAY_MOUNT)
    assert run(connection, "source", "mount", "sh", "-c", MOUNT) == 0
    with pytest.raises(CallError, match="EROFS: Read-only file system"):
        create(connection, "target", MAY_MOUNT, shared_mounts=[shared(dst_path="/sys/nothing/here")])
    assert "/target/" not in agent.mounts()
    assert not (agent.root / "run/kata-containers/target").exists()
