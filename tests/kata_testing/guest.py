"""A machine that tests share: booted once by the tool itself, driven over short-lived connections.

Owns the machine's folder and share, and reads its console. Knows nothing about what is tested in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_host.client import AgentClient
from kata_host.connect import connect, open_caller
from kata_host.message_json import fill_message
from kata_host.sandbox import Container, Sandbox, open_sandbox, plan_share_storage
from kata_host.sandbox_service import SandboxService
from kata_host.spec import BindMount, ProcessPlan, plan_spec
from kata_host.streams import Process
from kata_host.vm.base import GUEST_SHARE
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.loop import make_image
from kata_testing.repository import BUILD, VENV_BIN

TOOL = str(VENV_BIN / "kata-agent-ctl")
BOOT_TIMEOUT_S = 120.0
DISK_BYTES = 64 << 20
ROOT = f"{GUEST_SHARE}busybox"
GUEST_LIBRARY = "/usr/lib/kata"


def tool_environment(vm_dir: Path) -> dict[str, str]:
    """The tool's environment, with folders of its own."""
    return {**os.environ, "KATA_VM_DIR": str(vm_dir), "KATA_CACHE_DIR": f"{vm_dir}-cache"}


def run_tool(
    *args: str, vm_dir: Path, timeout_s: float = BOOT_TIMEOUT_S, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run kata-agent-ctl with its own folders for machines, templates and images."""
    env = tool_environment(vm_dir)
    more.setdefault("stdin", subprocess.DEVNULL if "input" not in more else None)
    if "input" in more:
        del more["stdin"]
    return subprocess.run([TOOL, *args], env=env, capture_output=True, timeout=timeout_s, check=False, **more)


def find_processes(word: str) -> list[str]:
    """Command lines of live processes that mention `word`; zombies have none."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if word in line:
            found.append(line)
    return found


@dataclass(frozen=True)
class Guest:
    """The running machine."""

    address: str
    console: Path
    share: Path
    vm_dir: Path
    disk: Path
    qmp: Path

    @asynccontextmanager
    async def connect(self, *, reconnect: bool = False) -> AsyncIterator[Sandbox]:
        """A connection of its own to the sandbox that the machine has."""
        async with await connect(self.address, reconnect=reconnect) as client:
            yield Sandbox(client, "shared", pb.GuestDetailsResponse())


async def read_agent_life(guest: Guest) -> int:
    """Which agent answers: each one that PID 1 starts counts one more."""
    async with await open_caller(guest.address) as client:
        return int((await SandboxService(client).get_boot()).life)


def _special_files(folder: str, names: list[str]) -> list[str]:
    """What copytree must leave: it would read a device that somebody's container left there without end."""
    kinds = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
    return [
        name for name in names if not any(is_kind(os.lstat(f"{folder}/{name}").st_mode) for is_kind in kinds)
    ]


@contextmanager
def boot_guest(folder: Path, *words: str, options: Sequence[str] = ()) -> Iterator[Guest]:
    """Boot with a share that holds a busybox root, these kernel words and options; stop the machine at the end."""
    share = folder / "share"
    shutil.copytree(BUILD / "rootfs" / "busybox", share / "busybox", symlinks=True, ignore=_special_files)
    for name in ("guest-proc", "share"):
        (share / "busybox" / name).mkdir()
    vm_dir = folder / "vms"
    disk = folder / "disk"
    make_image(disk, DISK_BYTES, "mkfs.ext4", "-q")
    # Level 5 lets the kernel's warnings through to the console, where each test looks for them.
    start = ("vm", "start", "--name", "shared", "--json", "--share", str(share), "--kernel-arg", "loglevel=5")
    image = os.environ.get("KATA_TEST_IMAGE", "initrd")
    # An emulated guest on a loaded machine finds devices slowly.
    arguments = [part for word in ("agent.hotplug_timeout=8", *words) for part in ("--kernel-arg", word)]
    done = run_tool(*start, "--image", image, "--disk", str(disk), *arguments, *options, vm_dir=vm_dir)
    if done.returncode != 0:
        raise AssertionError(f"the shared machine did not start:\n{done.stderr.decode()}")
    described = json.loads(done.stdout)
    try:
        console, qmp = Path(described["console"]), Path(described["qmp"])
        yield Guest(described["address"], console, share, vm_dir, disk, qmp)
    finally:
        run_tool("vm", "stop", "--all", vm_dir=vm_dir)


async def follow_console(console: Path) -> AsyncGenerator[str, None]:
    """The console's lines from its beginning, and those to come, for ever."""
    tail = await asyncio.create_subprocess_exec(
        "tail", "-n", "+1", "-F", str(console), stdout=asyncio.subprocess.PIPE
    )
    assert tail.stdout is not None
    try:
        while line := await tail.stdout.readline():
            yield line.decode(errors="replace").rstrip("\r\n")
    finally:
        tail.kill()
        await tail.communicate()


@asynccontextmanager
async def make_sandbox(guest: Guest) -> AsyncIterator[None]:
    """The machine's one sandbox, made and destroyed as Kata's runtime does."""
    async with await connect(guest.address) as client, open_sandbox(client):
        yield


async def create_shared_sandbox(guest: Guest) -> None:
    """The sandbox that `Guest.connect` is about, with the machine's share."""
    async with await connect(guest.address) as client:
        await client.check()
        request = pb.CreateSandboxRequest(
            sandbox_id="shared", hostname="kata-test", storages=[plan_share_storage()]
        )
        await client.create_sandbox(request)


def plan(
    *args: str, binds: Sequence[BindMount] = (), masked: bool = True, **process: Any
) -> dict[str, object]:
    """A specification for a command in the busybox root."""
    return plan_spec(ProcessPlan(args, **process), ROOT, binds=binds, masked=masked)


def plan_python(
    script: str, *args: str, binds: Sequence[BindMount] = (), masked: bool = True, writable: bool = False
) -> dict[str, object]:
    """A specification for a Python program: the guest's own interpreter, and our packages, in the guest's own root."""
    start = f"import sys; sys.path.insert(0, '{GUEST_LIBRARY}')\n{script}"
    command = ("/usr/bin/python3.13", "-I", "-S", "-c", start, *args)
    return plan_spec(ProcessPlan(command), "/", binds=binds, masked=masked, writable=writable)


async def read_all(process: Process, *, stderr: bool = False) -> bytes:
    """Everything a process prints."""
    return b"".join([data async for data in (process.read_stderr() if stderr else process.read_stdout())])


async def run_container(sandbox: Sandbox, *args: str, **process: Any) -> tuple[int, bytes, bytes]:
    """Status, output and errors of a command in a container of its own."""
    async with sandbox.container(plan(*args, **process)) as container:
        await container.start()
        output = await read_all(container)
        errors = await read_all(container, stderr=True)
        return await container.wait(30), output, errors


async def create_raw(client: AgentClient, container_id: str, spec: dict[str, object]) -> Container:
    """Create a container by the bare call, for tests of that call."""
    request = pb.CreateContainerRequest(container_id=container_id, exec_id=container_id)
    fill_message(request.OCI, spec)
    await client.create_container(request)
    return Container(client, container_id)
