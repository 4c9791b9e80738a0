"""The containers that are measured: requests for the wire, and the calls of a life cycle.

A usual Kata container without network: its own mount, pid, ipc and uts namespaces, the mounts that a container
runtime asks for, a root of busybox.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kata_bench.native import ROOT
from kata_bench.wire import AGENT, CallFailed, Client
from kata_images.native_root import place_busybox_root
from kata_protocols.gen import agent_pb2, oci_pb2
from kata_protocols.gen.empty_pb2 import Empty

BUSYBOX = ROOT / "build" / "rootfs" / "busybox" / "bin" / "busybox"

_MOUNTS = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),  # noqa: S108 - in there
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)


def make_root(folder: Path) -> Path:
    """A container's root of our own, which a measurement may write to, with the busybox that the image build made."""
    place_busybox_root(BUSYBOX, folder)
    return folder


def make_process(args: Sequence[str]) -> oci_pb2.Process:
    """A process as root without capabilities."""
    return oci_pb2.Process(
        Args=args, Env=["PATH=/bin"], Cwd="/", User=oci_pb2.User(UID=0, GID=0), NoNewPrivileges=True
    )


def make_request(
    container_id: str, root: str, args: Sequence[str], *, guest_proc: bool = False
) -> agent_pb2.CreateContainerRequest:
    """The request that creates a container; with `guest_proc` it sees the guest's /proc as /guest-proc."""
    mounts = [
        oci_pb2.Mount(destination=destination, type=kind, source=source, options=options)
        for destination, kind, source, options in _MOUNTS
    ]
    if guest_proc:
        mounts.append(
            oci_pb2.Mount(destination="/guest-proc", type="bind", source="/proc", options=["rbind", "ro"])
        )
    process = make_process(args)
    if guest_proc:
        # Reading another process's smaps_rollup takes what ptrace takes.
        kept = ["CAP_SYS_PTRACE"]
        process.Capabilities.CopyFrom(
            oci_pb2.LinuxCapabilities(Bounding=kept, Effective=kept, Permitted=kept)
        )
    spec = oci_pb2.Spec(
        Version="1.1.0",
        Process=process,
        Root=oci_pb2.Root(Path=root),
        Mounts=mounts,
        Linux=oci_pb2.Linux(
            CgroupsPath=f"/kata-bench/{container_id}",
            Namespaces=[oci_pb2.LinuxNamespace(Type=kind) for kind in ("mount", "pid", "ipc", "uts")],
        ),
    )
    return agent_pb2.CreateContainerRequest(container_id=container_id, exec_id=container_id, OCI=spec)


def create_sandbox(client: Client) -> None:
    """What a host does first."""
    client.call(
        AGENT, "CreateSandbox", agent_pb2.CreateSandboxRequest(hostname="bench", sandbox_id="bench"), Empty
    )


def create(client: Client, request: agent_pb2.CreateContainerRequest) -> None:
    """Create a container."""
    client.call(AGENT, "CreateContainer", request, Empty)


def start(client: Client, container_id: str) -> None:
    """Start it."""
    client.call(AGENT, "StartContainer", agent_pb2.StartContainerRequest(container_id=container_id), Empty)


def wait(client: Client, container_id: str, exec_id: str = "") -> int:
    """Wait for its process's end: the exit status."""
    request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=exec_id or container_id)
    return client.call(AGENT, "WaitProcess", request, agent_pb2.WaitProcessResponse).status


def remove(client: Client, container_id: str) -> None:
    """Remove it."""
    client.call(AGENT, "RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container_id), Empty)


def kill(client: Client, container_id: str) -> None:
    """End it by SIGKILL and remove it."""
    request = agent_pb2.SignalProcessRequest(container_id=container_id, exec_id=container_id, signal=9)
    client.call(AGENT, "SignalProcess", request, Empty)
    wait(client, container_id)
    remove(client, container_id)


def run_to_end(client: Client, request: agent_pb2.CreateContainerRequest) -> None:
    """The whole life of a container whose program ends by itself with 0."""
    container_id = request.container_id
    create(client, request)
    start(client, container_id)
    status = wait(client, container_id)
    remove(client, container_id)
    if status != 0:
        raise RuntimeError(f"container {container_id} exited with {status}")


def read_output(client: Client, container_id: str, chunk_bytes: int = 32768) -> list[bytes]:
    """All of a container's standard output, by ReadStdout until the agent says that it has ended."""
    request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=container_id, len=chunk_bytes)
    pieces: list[bytes] = []
    while True:
        try:
            answer = client.call(AGENT, "ReadStdout", request, agent_pb2.ReadStreamResponse)
        except CallFailed as end:
            if "eof" not in end.text:
                raise
            return pieces
        pieces.append(answer.data)
