"""A container's life, played before the agent is saved, so that copies have behind them what the first one costs.

Owns: what is played, and that it is played over the wire: modules are loaded, the interpreter has specialised the code
on the way, the programs are in the page cache, in PID 1 and crun, too. Must not know: how any call is done. Nothing of
it is left but that (`understudy`). A call that fails fails the rehearsal: a copy's first one would fail, too.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from kata_agent.dispatch import AGENT, HEALTH, Dispatcher
from kata_agent.errors import AgentError
from kata_agent.snapshot.understudy import FOLDER
from kata_protocols import services
from kata_protocols.aio.server import serve
from kata_protocols.gen import agent_pb2 as agent
from kata_protocols.gen import oci_pb2 as oci
from kata_protocols.status import Code
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.events import ResponseReceived
from kata_protocols.ttrpc.state import Role

if TYPE_CHECKING:
    from kata_agent.snapshot.understudy import Understudy

ROUNDS = 4
"""The interpreter specialises what ran twice; the third time little changes, the fourth shows it."""
PROGRAM = "cat"
"""It ends with its input, and is in every guest with busybox."""
NAME = "rehearsal"
_LINE = b"line\n"
_SOCKET = f"{FOLDER}/agent.sock"
_LIMIT_BYTES = 32768
_PLACE = f"/run/kata-containers/{NAME}/layered"
_LAYER = ("X-kata.multi-layer=true", "X-kata.overlay-lower")
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


class Refused(AgentError):
    """A call of the rehearsal was answered with an error."""


class Prompter:
    """The host's part: one call after the other on a connection of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._codec = Connection(Role.CLIENT)

    async def call(self, service: str, method: str, **fields: Any) -> Any:
        """The answer. Raises `Refused`, `ConnectionError`."""
        about = getattr(services, "AGENT_SERVICE" if service == AGENT else "HEALTH_SERVICE").methods[method]
        loop = asyncio.get_running_loop()
        request = about.request_type(**fields).SerializeToString()
        _, data = self._codec.send_request(service, method, request)
        await loop.sock_sendall(self._socket, data)
        while True:
            event = self._codec.next_event()
            if isinstance(event, ResponseReceived):
                break
            if event is not None:
                raise ConnectionError(f"rehearsal: {method}: {event}")
            self._codec.receive_data(await loop.sock_recv(self._socket, 1 << 16))
        if event.code:
            raise Refused(f"rehearsal: {method}: {Code(event.code).name}: {event.message}")
        return about.response_type.FromString(event.payload)


async def rehearse(understudy: Understudy, disk: tuple[str, str] | None = None) -> str:
    """Play `ROUNDS` lives; gives how long each took, for people. Raises `Refused`, OSError.

    `disk`: PCI path and file system of a disk that the container has a storage on, as a layer of a root.
    """
    program = find_program(os.environ.get("PATH", ""))
    if not program:
        return f"not rehearsed: no {PROGRAM} in PATH"
    took = []
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as connection:
        listener.bind(_SOCKET)
        listener.listen()
        connection.settimeout(0)
        async with serve(Dispatcher(understudy), [listener]):
            await asyncio.get_running_loop().sock_connect(connection, _SOCKET)
            prompter = Prompter(connection)
            for _ in range(ROUNDS):
                started = time.monotonic_ns()
                await _play(prompter, program, make_storages(disk))
                took.append(str((time.monotonic_ns() - started) // 1_000_000))
            connection.close()
    return f"rounds of {', '.join(took)} ms"


def find_program(path: str) -> str:
    """The program's path in this guest, which is the container's root; empty when there is none."""
    for folder in path.split(":"):
        if folder.startswith("/") and os.access(f"{folder}/{PROGRAM}", os.X_OK):
            return f"{folder}/{PROGRAM}"
    return ""


def find_group() -> str:
    """A control group of this agent's alone, also on a machine where others have a process of its number."""
    return f"{NAME}-{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}"


async def _play(prompter: Prompter, program: str, storages: list[agent.Storage]) -> None:
    """What a host does until its first container is gone, streams and an exec included."""
    call = prompter.call
    await call(HEALTH, "Check")
    await call(HEALTH, "Version")
    await call(AGENT, "GetGuestDetails")
    await call(AGENT, "ListInterfaces")
    await call(AGENT, "ListRoutes")
    await call(AGENT, "CreateSandbox", sandbox_id=NAME, hostname=NAME)
    names = {"container_id": NAME, "exec_id": NAME}
    await call(AGENT, "CreateContainer", **names, OCI=make_spec(program), storages=storages)
    await call(AGENT, "StartContainer", container_id=NAME)
    await call(AGENT, "ExecProcess", container_id=NAME, exec_id="exec", process=make_process(program))
    for exec_id in ("exec", NAME):
        names = {"container_id": NAME, "exec_id": exec_id}
        await call(AGENT, "WriteStdin", **names, data=_LINE)
        answer = await call(AGENT, "ReadStdout", **names, len=_LIMIT_BYTES)
        if answer.data != _LINE:
            raise Refused(f"rehearsal: wrote {_LINE!r}, read {answer.data!r}")
        await call(AGENT, "CloseStdin", **names)
        for method in ("ReadStdout", "ReadStderr"):
            await _read_end(prompter, method, names)
        await call(AGENT, "WaitProcess", **names)
    await call(AGENT, "StatsContainer", container_id=NAME)
    await call(AGENT, "RemoveContainer", container_id=NAME)


async def _read_end(prompter: Prompter, method: str, names: dict[str, str]) -> None:
    """What is left of a stream is its end, which hosts are told by an error."""
    try:
        answer = await prompter.call(AGENT, method, **names, len=_LIMIT_BYTES)
    except Refused as end:
        if "eof" not in str(end):
            raise
    else:
        raise Refused(f"rehearsal: {method}: {answer.data!r} where the end was expected")


def make_storages(disk: tuple[str, str] | None) -> list[agent.Storage]:
    """A layer on the disk, below one in memory: what a root on a disk takes, and a root of layers."""
    if disk is None:
        return []
    address, fstype = disk
    options = ["ro", *(["noload"] if fstype == "ext4" else []), *_LAYER]
    return [agent.Storage(driver="blk", source=address, fstype=fstype, mount_point=_PLACE, options=options)]


def make_process(program: str) -> oci.Process:
    """The program as root without capabilities."""
    return oci.Process(Args=[program], Env=["PATH=/bin"], Cwd="/", User=oci.User(), NoNewPrivileges=True)


def make_spec(program: str) -> oci.Spec:
    """A usual container, but for its root: the guest's own, which it cannot write to."""
    return oci.Spec(
        Version="1.1.0",
        Process=make_process(program),
        Root=oci.Root(Path="/", Readonly=True),
        Hostname=NAME,
        Mounts=[
            oci.Mount(destination=destination, type=kind, source=source, options=options)
            for destination, kind, source, options in _MOUNTS
        ],
        Linux=oci.Linux(
            CgroupsPath=f"/{find_group()}/{NAME}",
            Namespaces=[oci.LinuxNamespace(Type=kind) for kind in ("mount", "pid", "ipc", "uts")],
        ),
    )
