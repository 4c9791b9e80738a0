"""A machine that is saved while a container runs: it goes on, and copies of it do, each on its own.

One machine is booted by the tool; what stops a snapshot comes first, then the snapshot that copies are made of.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kata_host.client import AgentClient
from kata_host.connect import connect
from kata_host.sandbox import Container, Sandbox, plan_share_storage
from kata_host.sandbox_service import SandboxService
from kata_host.spec import ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE
from kata_host.vm.qemu import QemuVm
from kata_host.vm.saved import Saved, read_saved, restore, resume
from kata_host.vm.snapshot import Snapshot
from kata_protocols.gen import agent_pb2 as pb
from kata_testing.guest import TOOL, plan_python, read_all, run_tool
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 180.0
TOOL_TIMEOUT_S = 120.0
TICKER = "ticker"
TICK = """
import time
number = 0
while True:
    print(number, time.time_ns(), flush=True)
    number += 1
    time.sleep(0.05)
"""
DRAW = """
import json, os, random, uuid
with open("/proc/sys/kernel/random/uuid") as file:
    kernel = file.read()
print(json.dumps([kernel, os.urandom(16).hex(), random.random(), str(uuid.uuid4())]))
"""
# A line's way from the container to us is in what we can measure; of many the fastest counts.
LINE_S = 1.0
TMPFS_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """The machine that is saved; `ticks` are the container's lines that were read already."""

    vm_dir: Path
    address: str
    ticks: list[int]

    def snapshot(self, folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
        arguments = ("vm", "snapshot", "source", str(folder), "--json", *options)
        return run_tool(*arguments, vm_dir=self.vm_dir, timeout_s=TOOL_TIMEOUT_S)

    async def check_ticking(self) -> None:
        async with await connect(self.address) as client:
            self.ticks.append((await read_on(client, self.ticks[-1], 3))[0])


async def read_ticks(client: AgentClient) -> AsyncIterator[list[tuple[int, int]]]:
    """Number and time of each line, as they arrive together: what was taken from the agent is not to be had again."""
    async for data in Container(client, TICKER).read_stdout():
        assert data.endswith(b"\n"), "the container writes whole lines"
        yield [(int(number), int(stamp)) for number, stamp in map(bytes.split, data.splitlines())]


async def read_on(client: AgentClient, last: int, count: int) -> tuple[int, list[float]]:
    """At least `count` lines, none missing and none twice: the last one's number, and how late each came in seconds."""
    delays: list[float] = []
    async for ticks in read_ticks(client):
        now = time.time_ns()
        assert [number for number, _ in ticks] == list(range(last + 1, last + 1 + len(ticks)))
        delays += [(now - stamp) / 1e9 for _, stamp in ticks]
        last += len(ticks)
        if len(delays) >= count:
            break
    return last, delays


async def begin(address: str) -> list[int]:
    async with await connect(address) as client:
        await client.check()
        await client.create_sandbox(pb.CreateSandboxRequest(sandbox_id="saved"))
        sandbox = Sandbox(client, "saved", pb.GuestDetailsResponse())
        container = await sandbox.create(plan_python(TICK), TICKER)
        await container.start()
        return [(await read_on(client, -1, 3))[0]]


@pytest.fixture(scope="module")
def source(short_folder: Path) -> Iterator[Source]:
    vm_dir = short_folder / "saved-vms"
    start = ("vm", "start", "--name", "source", "--savable", "--json")
    done = run_tool(*start, vm_dir=vm_dir)
    assert done.returncode == 0, done.stderr.decode()
    try:
        address = json.loads(done.stdout)["address"]
        yield Source(vm_dir, address, asyncio.run(begin(address)))
    finally:
        run_tool("vm", "stop", "--all", vm_dir=vm_dir, timeout_s=60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_leaves_nothing_and_the_machine_goes_on(source: Source, small_disk: Path) -> None:
    done = source.snapshot(small_disk / "saved")
    assert done.returncode == 1
    assert (
        f"{small_disk}/saved: the machine cannot be saved there: No space left on device"
        in done.stderr.decode()
    )
    assert list(small_disk.iterdir()) == []
    asyncio.run(source.check_ticking())
    (small_disk / "mine").touch()
    done = source.snapshot(small_disk / "mine")
    assert done.stderr.decode().endswith(
        f"{small_disk}/mine: is there already; remove it, or name another folder\n"
    )
    assert b"halt" not in done.stderr


def test_who_is_killed_while_he_saves_leaves_nothing_half_done_and_the_machine_goes_on(
    source: Source, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    env = {**os.environ, "KATA_VM_DIR": str(source.vm_dir)}
    with subprocess.Popen(
        [TOOL, "vm", "snapshot", "source", str(folder)], env=env, stderr=subprocess.PIPE
    ) as tool:
        assert tool.stderr is not None
        while (line := tool.stderr.readline()) != b"save\n":
            assert line, "the tool ended before it saved"
        tool.kill()
    asyncio.run(source.check_ticking())  # its keeper answers the next call when this one is undone
    done = source.snapshot(tmp_path / "next")
    assert done.returncode == 0, done.stderr.decode()
    left = {path.name for path in tmp_path.iterdir()}
    assert left in ({"next"}, {"next", "killed"})
    if "killed" in left:  # the machine was captured before the kill was seen: then it is there whole
        read_saved(folder)


def test_what_was_plugged_is_refused_by_name_or_unplugged_on_request(source: Source, tmp_path: Path) -> None:
    disk, folder = tmp_path / "disk.img", tmp_path / "saved"
    disk.write_bytes(bytes(1 << 20))
    plug = ("vm", "plug", "source", "extra", "disk", str(disk))
    assert run_tool(*plug, vm_dir=source.vm_dir, timeout_s=TOOL_TIMEOUT_S).returncode == 0
    refused = source.snapshot(folder)
    assert refused.returncode == 1
    assert "source: extra came after its start and would be missing in copies" in refused.stderr.decode()
    done = source.snapshot(folder, "--unplug")
    assert done.returncode == 0, done.stderr.decode()
    told = "unplugged extra: copies would miss it, and the machine goes on without it"
    assert told in done.stderr.decode().splitlines()
    assert read_saved(folder).memory.exists()
    asyncio.run(source.check_ticking())


@dataclass(frozen=True)
class Seen:
    """What was seen of a copy: its clock's distance from the host's, what that may be, what nobody else may draw."""

    late_s: float
    repair_s: float
    drawn: list[object]
    generation: str


async def look_at(copy: QemuVm, last_tick: int) -> Seen:
    async with await connect(copy.address) as client:
        await client.check()
        _, delays = await read_on(client, last_tick, 60)
        sandbox = Sandbox(client, "saved", pb.GuestDetailsResponse())
        async with sandbox.container(plan_python(DRAW)) as container:
            await container.start()
            drawn = json.loads(await read_all(container))
        boot = await SandboxService(client.caller).get_boot()
    at = {stamp.event: stamp.host_s for stamp in copy.timeline.stamps}
    return Seen(min(delays), at["resumed"] - at["running"], drawn, boot.generation.id)


def check_clock(seen: Seen) -> None:
    """The guest has set its clock at some moment of its repair, however long its host let it wait in the middle."""
    assert -seen.repair_s <= seen.late_s <= seen.repair_s + LINE_S


@pytest.fixture
def saved(source: Source, short_folder: Path) -> Saved:
    """A snapshot of the machine, which goes on."""
    folder = short_folder / "saved"
    if not folder.exists():
        done = source.snapshot(folder)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout) == {"folder": str(folder)}
    return read_saved(folder)


def test_two_copies_share_the_memory_and_go_on_each_with_its_own_random_numbers_and_the_host_s_clock(
    source: Source, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KATA_VM_DIR", str(source.vm_dir))
    before = hashlib.sha256(saved.memory.read_bytes()).hexdigest()

    async def run() -> list[Seen]:
        async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
            one = await stack.enter_async_context(restore(saved, replace(saved.config, name="one")))
            two = await stack.enter_async_context(restore(saved, paused=True))
            await resume(two, hostname="two")
            for copy in (one, two):
                assert copy.child is not None
                assert find_rights(copy.child.pid, saved.memory) == ["rw-p"]
            return [await look_at(copy, source.ticks[-1]) for copy in (one, two)]

    one, two = asyncio.run(run())
    assert not set(one.drawn) & set(two.drawn)
    assert one.generation != two.generation
    for seen in (one, two):
        check_clock(seen)
    assert hashlib.sha256(saved.memory.read_bytes()).hexdigest() == before
    assert {path.stat().st_mode & 0o777 for path in saved.folder.iterdir()} == {0o600}


def find_rights(pid: int, path: Path) -> list[str]:
    """How a process maps a file."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split()[1] for line in lines if line.endswith(f" {path}")]


async def take_back(vm: QemuVm, folder: Path, at: str) -> None:
    """Begin a snapshot and give it up at a step."""

    def note(step: str) -> None:
        if step == at:
            taking.cancel()

    taking = asyncio.create_task(Snapshot(vm, note).take(folder))  # noqa: TID251 - it cancels itself
    with pytest.raises(asyncio.CancelledError):
        await taking


def test_a_snapshot_can_be_taken_back_and_a_copy_be_saved_in_turn(
    source: Source, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KATA_VM_DIR", str(source.vm_dir))

    async def run() -> Seen:
        async with asyncio.timeout(DEADLINE_S):
            async with restore(saved) as copy:
                for step in ("bring the guest to a halt", "save"):
                    await take_back(copy, tmp_path / "taken back", step)
                # A guest that had been left at a halt would refuse.
                again = await Snapshot(copy, note=print).take(tmp_path / "again")
            assert again.inside
            async with restore(read_saved(again.folder)) as second:
                return await look_at(second, source.ticks[-1])

    check_clock(asyncio.run(run()))
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_copy_can_be_given_a_share_and_vsock(source: Source, saved: Saved) -> None:
    share = BUILD / "rootfs" / "busybox"
    restore_it = ("vm", "restore", str(saved.folder), "--name", "shared", "--json")
    more = ("--share", str(share), "--channel", "vsock")
    done = run_tool(*restore_it, *more, vm_dir=source.vm_dir)
    assert done.returncode == 0, done.stderr.decode()

    async def run() -> bytes:
        async with asyncio.timeout(DEADLINE_S), await connect(json.loads(done.stdout)["address"]) as client:
            sandbox = Sandbox(client, "saved", pb.GuestDetailsResponse())
            spec = plan_spec(ProcessPlan(("echo", "from the share")), GUEST_SHARE)
            async with sandbox.container(spec, storages=[plan_share_storage()]) as container:
                await container.start()
                return await read_all(container)

    assert asyncio.run(run()) == b"from the share\n"
    assert run_tool("vm", "stop", "shared", vm_dir=source.vm_dir).returncode == 0


@pytest.mark.parametrize(("field", "value"), [("qemu", "9.9.9"), ("cpu", "max"), ("build", "another")])
def test_what_was_made_by_something_else_is_refused_with_both(
    source: Source, saved: Saved, tmp_path: Path, field: str, value: str
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in (saved.memory, saved.state):
        (folder / file.name).symlink_to(file)
    machine = json.loads((saved.folder / "machine.json").read_text())
    there = machine["versions"][field]
    machine["versions"][field] = value
    (folder / "machine.json").write_text(json.dumps(machine))
    done = run_tool("vm", "restore", str(folder), vm_dir=source.vm_dir)
    assert done.returncode == 1
    assert f"it was saved with {field} {value}, and here is {there}" in done.stderr.decode()
