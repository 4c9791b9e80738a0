"""A real agent on this machine, without a VM: alone, or supervised by our PID 1 in namespaces of its own.

Owns the processes it starts and the containers made through it. Needs root, crun and a busybox.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from kata_linux import procfs
from kata_protocols import services
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.client import Client
from kata_protocols.aio.dial import dial
from kata_protocols.gen import agent_pb2, oci_pb2
from kata_protocols.status import StatusError
from kata_testing.requires import crun_path

NEEDS = ("root", "crun", "busybox", "cgroup2")
AGENT = services.AGENT_SERVICE
HEALTH = services.HEALTH_SERVICE
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
NAMESPACES = ("pid", "mount", "ipc", "uts")
_numbers = itertools.count()


@cache
def busybox_root() -> Path:
    """A folder with a busybox and all its names in /bin; made once for a test session, removed at its end."""
    root = Path(mkdtemp(prefix="kata-busybox-"))
    atexit.register(shutil.rmtree, root)
    root.chmod(0o755)
    for name in ("bin", "proc", "dev", "etc", "tmp", "root"):
        (root / name).mkdir()
    program = shutil.which("busybox")
    assert program is not None
    shutil.copy(program, root / "bin/busybox")
    subprocess.run(["chroot", root, "/bin/busybox", "--install", "-s", "/bin"], check=True, timeout=30)
    return root


def oci_process(*args: str, **fields: Any) -> oci_pb2.Process:
    """A process as the Go runtime sends it for an exec."""
    fields = {"Env": ["PATH=/bin"], "Cwd": "/", **fields}
    return oci_pb2.Process(Args=args, **fields)


def oci_spec(*args: str, root: str = "", **process: Any) -> oci_pb2.Spec:
    """A small container of the busybox root."""
    mounts = [
        oci_pb2.Mount(destination="/proc", type="proc", source="proc"),
        oci_pb2.Mount(destination="/dev", type="tmpfs", source="tmpfs"),
        oci_pb2.Mount(destination="/dev/pts", type="devpts", source="devpts", options=["newinstance"]),
    ]
    linux = oci_pb2.Linux(Namespaces=[oci_pb2.LinuxNamespace(Type=name) for name in NAMESPACES])
    return oci_pb2.Spec(
        Version="1.0.2",
        Process=oci_process(*args, **process),
        Root=oci_pb2.Root(Path=root or str(busybox_root())),
        Mounts=mounts,
        Linux=linux,
    )


def fresh_id(name: str = "test") -> str:
    """A container id that no other test uses."""
    return f"{name}-{os.getpid()}-{next(_numbers)}"


async def refusal(call: Awaitable[object]) -> StatusError:
    """The status that a call must fail with."""
    with pytest.raises(StatusError) as caught:
        await call
    return caught.value


class NativeAgent:
    """An agent that answers, and a client of it."""

    def __init__(
        self, process: subprocess.Popen[bytes], address: UnixAddress, log: Path, *, supervised: bool
    ) -> None:
        self.process = process
        self.supervised = supervised
        self.address = address
        self.log = log
        self.root = ""
        """Of containers, where it is not the busybox of this session."""
        self.made: list[str] = []
        self._client: Client | None = None
        self._clients: list[Client] = []

    def another(self) -> NativeAgent:
        """The same agent over a connection of its own; this one closes it."""
        other = copy.copy(self)
        other._client = None
        return other

    async def client(self) -> Client:
        """The connection, dialled again when it was lost."""
        if self._client is None or self._client.closed:
            self._client = await self.dial()
        return self._client

    async def dial(self) -> Client:
        """A connection of its own, which the agent has accepted."""
        client = Client(await dial(self.address, timeout_s=START_TIMEOUT_S))
        # thousands are lost with their agents in the torture tests
        self._clients[:] = [other for other in self._clients if not other.closed] + [client]
        method = HEALTH.methods["Check"]
        await client.call(method, method.request_type(), timeout_s=START_TIMEOUT_S)
        return client

    async def call(self, name: str, timeout_s: float = CALL_TIMEOUT_S, **fields: Any) -> Any:
        """One call of the agent service."""
        method = AGENT.methods[name]
        client = await self.client()
        return await client.call(method, method.request_type(**fields), timeout_s=timeout_s)

    async def check(self) -> None:
        """Ask for the agent's health."""
        method = HEALTH.methods["Check"]
        await (await self.client()).call(method, method.request_type(), timeout_s=CALL_TIMEOUT_S)

    async def create(self, container_id: str, *args: str, **spec: Any) -> None:
        """CreateContainer."""
        spec.setdefault("root", self.root)
        await self.call("CreateContainer", container_id=container_id, OCI=oci_spec(*args, **spec))
        self.made.append(container_id)

    async def run(self, *args: str, **spec: Any) -> str:
        """Create and start a container; gives its id."""
        container_id = fresh_id()
        await self.create(container_id, *args, **spec)
        await self.call("StartContainer", container_id=container_id)
        return container_id

    async def exec(self, container_id: str, exec_id: str, *args: str, **process: Any) -> None:
        """ExecProcess."""
        process_message = oci_process(*args, **process)
        await self.call("ExecProcess", container_id=container_id, exec_id=exec_id, process=process_message)

    async def wait(self, container_id: str, exec_id: str = "") -> int:
        """WaitProcess: the status."""
        status: int = (await self.call("WaitProcess", container_id=container_id, exec_id=exec_id)).status
        return status

    async def read(
        self, container_id: str, exec_id: str = "", stream: str = "Stdout", limit: int = 32768
    ) -> bytes:
        """One ReadStdout or ReadStderr."""
        reply = await self.call(f"Read{stream}", container_id=container_id, exec_id=exec_id, len=limit)
        data: bytes = reply.data
        return data

    async def read_all(
        self, container_id: str, exec_id: str = "", stream: str = "Stdout"
    ) -> tuple[bytes, str]:
        """Everything until the error that ends a stream, and that error's text."""
        pieces = []
        while True:
            try:
                pieces.append(await self.read(container_id, exec_id, stream))
            except StatusError as error:
                return b"".join(pieces), error.message
            assert pieces[-1], "an empty success makes hosts ask for ever"

    async def remove(self, container_id: str, limit_s: int = 0) -> None:
        """RemoveContainer with this timeout, 0 for none."""
        await self.call("RemoveContainer", container_id=container_id, timeout=limit_s)
        self.made.remove(container_id)

    def agent_pid(self) -> int:
        """The agent's pid, as this process sees it: the process itself, or PID 1's child."""
        pid = self.process.pid
        for _ in range(2 if self.supervised else 0):  # unshare's child is PID 1, whose child is the agent
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            pid = next(int(child) for child in children if _is_python(int(child)))
        return pid

    def open_fds(self) -> list[str]:
        """What the agent's descriptors are."""
        return list_fds(self.agent_pid())

    async def close_clients(self) -> None:
        """Close every connection."""
        for client in self._clients:
            await client.aclose()

    async def close(self) -> None:
        """Remove what tests have left, then end the agent."""
        try:
            for container_id in list(self.made):
                try:
                    await self.remove(container_id)
                except StatusError:
                    self.made.remove(container_id)
        finally:
            await self.close_clients()
            # unshare ignores SIGTERM; killed, it takes PID 1 and so all of the namespace with it
            self.process.send_signal(signal.SIGKILL if self.supervised else signal.SIGTERM)
            try:
                await asyncio.to_thread(self.process.wait, 20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise


@asynccontextmanager
async def native_agent(
    folder: Path,
    *,
    supervised: bool = False,
    environment: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> AsyncIterator[NativeAgent]:
    """An agent that listens on a socket in `folder`. What it wrote to stderr is printed when the test fails.

    `words` are PID 1's.
    """
    agent = start(folder, supervised=supervised, environment=environment, words=words)
    try:
        await agent.check()
        yield agent
    except BaseException:
        sys.stderr.write(agent.log.read_text(encoding="utf-8", errors="replace")[-8000:])
        raise
    finally:
        await agent.close()


def start(
    folder: Path,
    *,
    supervised: bool,
    environment: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> NativeAgent:
    """Start it; it need not answer yet."""
    address = UnixAddress(str(folder / "agent.sock"))
    log = folder / "agent.log"
    environment = {
        **os.environ,
        "KATA_AGENT_CRUN": str(crun_path()),
        **(environment or {}),
        "KATA_AGENT_SERVER_ADDR": f"unix://{address.path}",
    }
    command = [sys.executable, "-c", "from kata_agent.main import main; main()"]
    if supervised:
        command = [
            *("unshare", "--fork", "--pid", "--kill-child=SIGKILL", sys.executable, "-c"),
            *("from kata_init.main import main; main()", f"kata.log={log}", *words),
        ]
    # PID 1 appends to the same file: written at an offset, lines would be lost
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=output, stdout=output
        )
    return NativeAgent(process, address, log, supervised=supervised)


def list_fds(pid: int) -> list[str]:
    """What the descriptors of a process are; one that is closed meanwhile is left out."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sorted(links)


def _is_python(pid: int) -> bool:
    """Whether it is one of ours: containers' processes are children of PID 1, too."""
    try:
        return procfs.read_cmdline(pid)[:1] == [sys.executable]
    except (FileNotFoundError, ProcessLookupError):
        return False  # ended since it was listed


__all__ = [
    "NEEDS",
    "NativeAgent",
    "agent_pb2",
    "busybox_root",
    "fresh_id",
    "native_agent",
    "oci_process",
    "oci_spec",
    "refusal",
]
