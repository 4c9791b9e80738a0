"""Copies of one template: private, repaired, and no harm to it, however they, their makers or the template end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_host.connect import connect
from kata_host.sandbox import open_sandbox
from kata_host.spec import BindMount, ProcessPlan, plan_spec
from kata_host.templates.copy import Copy, Own, open_copy
from kata_host.templates.make import SAVED
from kata_host.templates.store import TemplateError, TemplateStore
from kata_host.vm.base import GUEST_SHARE, Stamp, Timeline, VmError
from kata_host.vm.qemu import QemuVm
from kata_host.vm.watch import open_watch
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import types_pb2
from kata_testing.guest import TOOL, find_processes, plan_python, read_all, run_tool, tool_environment
from kata_testing.repository import BUILD

pytestmark = pytest.mark.requires("root", "qemu", "guest-image", "erofs")

DEADLINE_S = 240.0
COPIES = 8
CLOCK_BOUND_S = 2.0
NAME = "base"
IN_CREATE = 0x100
GUEST_PROC = BindMount("/proc", "/mnt", ("rbind", "ro"))
DRAW = """
import json, os, random, socket, time, uuid
def read(path):
    with open(path) as file:
        return file.read().strip()
print(json.dumps({
    "kernel": read("/proc/sys/kernel/random/uuid"), "urandom": os.urandom(16).hex(), "random": random.random(),
    "uuid4": str(uuid.uuid4()), "hostname": socket.gethostname(), "machine_id": read("/etc/machine-id"),
    "time": time.time(), "left": [line for line in read("/mnt/1/mountinfo").splitlines() if "rehearsal" in line],
}))
"""
DIFFER = ("kernel", "urandom", "random", "uuid4", "hostname", "machine_id")


@dataclass(frozen=True)
class Base:
    """The template, and what its files are."""

    vm_dir: Path
    store: TemplateStore
    digest: str

    def tool(self, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return run_tool(*words, vm_dir=self.vm_dir, **more)

    def check_whole(self) -> None:
        assert read_digest(self.store) == self.digest, "the template's files were changed"

    def copy(self, store: TemplateStore | None = None) -> Copy:
        return Copy(NAME, (store or self.store).root)


def read_digest(store: TemplateStore) -> str:
    digest = hashlib.sha256()
    with store.open(NAME) as template:
        for file in ("memory", "state", "machine.json"):
            digest.update((template.folder / SAVED / file).read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def base(short_folder: Path) -> Iterator[Base]:
    vm_dir = short_folder / "template-vms"
    done = run_tool("vm", "template", "create", NAME, "--memory", "256", "--json", vm_dir=vm_dir)
    assert done.returncode == 0, done.stderr.decode()
    store = TemplateStore(Path(f"{vm_dir}-cache") / "templates")
    try:
        yield Base(vm_dir, store, read_digest(store))
    finally:
        run_tool("vm", "stop", "--all", vm_dir=vm_dir, timeout_s=60)
    assert find_processes(str(vm_dir)) == []


def private_store(base: Base, folder: Path, **versions: str) -> TemplateStore:
    """A store with the same template, which may be spoilt."""
    store = TemplateStore(folder / "templates")
    with base.store.open(NAME) as source, store.draft(NAME) as draft:
        shutil.copytree(source.folder / SAVED, draft.folder / SAVED, copy_function=os.link)
        machine = draft.folder / SAVED / "machine.json"
        words = json.loads(machine.read_text())
        words["versions"] |= versions
        machine.unlink()
        machine.write_text(json.dumps(words))
        draft.publish(words["versions"], source.manifest.machine)
    return store


async def draw(vm: QemuVm) -> dict[str, Any]:
    """What a container of this copy draws, and how far its clock is off."""
    async with (
        await connect(vm.address) as client,
        open_sandbox(client, share=False) as sandbox,
        sandbox.container(plan_python(DRAW, binds=[GUEST_PROC])) as container,
    ):
        before = time.time()
        await container.start()
        output, errors = await read_all(container), await read_all(container, stderr=True)
        assert await container.wait(60) == 0, errors.decode()
        drawn: dict[str, Any] = json.loads(output)
        drawn["early"], drawn["late"] = before - drawn["time"], drawn["time"] - time.time()
        return drawn


def test_eight_copies_at_once_have_nothing_in_common_and_leave_the_template_as_it_was(base: Base) -> None:
    async def one(vm: QemuVm) -> dict[str, Any]:
        drawn = await draw(vm)
        at = {stamp.event: stamp.host_s for stamp in vm.timeline.stamps}
        return {**drawn, "name": vm.name, "repair_s": at["resumed"] - at["running"]}

    async def run() -> list[dict[str, Any]]:
        async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
            vms = [await stack.enter_async_context(open_copy(base.copy(), Own())) for _ in range(COPIES)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(vm)) for vm in vms]
            return [task.result() for task in tasks]

    drawn = asyncio.run(run())
    for what in DIFFER:
        assert len({each[what] for each in drawn}) == COPIES, (
            f"copies share {what}: {[each[what] for each in drawn]}"
        )
    assert [each["hostname"] for each in drawn] == [each["name"] for each in drawn]
    assert [each["left"] for each in drawn] == [[]] * COPIES, "mounts of the rehearsal are left"
    for each in drawn:  # the clock is set at some moment of the repair, however long that takes
        assert max(each["early"], each["late"]) < each["repair_s"] + CLOCK_BOUND_S
    base.check_whole()


MOMENTS = ("qemu started", "qemu answers", "restored", "running", "resumed")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_copy_killed_at_any_moment_is_told_leaves_nothing_and_harms_nothing(
    base: Base, moment: str
) -> None:
    name = f"killed-{MOMENTS.index(moment)}-{os.getpid()}"  # these machines are in the user's own folder

    state = "early"

    def kill(stamp: Stamp) -> None:
        """At the moment, or as soon after as there is a process to kill: between two programs it has no arguments."""
        nonlocal state
        if stamp.event == moment:
            state = "now"
        if state == "now" and kill_machine(name):
            state = "killed"

    async def run() -> None:
        timeline = Timeline(listener=kill)
        copy = Copy(NAME, base.store.root, name)
        async with asyncio.timeout(DEADLINE_S), open_copy(copy, Own(), timeline) as vm:
            assert state == "killed"
            await vm.wait_exit()
            raise VmError("qemu ended")

    with pytest.raises(VmError):
        asyncio.run(run())
    assert find_processes(f"-name {name} ") == []
    base.check_whole()


def test_a_template_that_is_removed_is_gone_for_new_copies_and_those_that_run_go_on(
    base: Base, tmp_path: Path
) -> None:
    store = private_store(base, tmp_path)

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), open_copy(base.copy(store), Own()) as vm:
            store.remove(NAME)
            assert [path.name for path in store.root.iterdir()] == [".lock"]
            assert (await draw(vm))["hostname"] == vm.name
            with pytest.raises(TemplateError, match=f"template {NAME}: there is none; make it with"):
                async with open_copy(base.copy(store), Own()):
                    raise AssertionError("a copy of nothing")

    asyncio.run(run())
    base.check_whole()


def test_a_template_of_other_versions_is_refused_and_listed_with_the_reason(
    base: Base, tmp_path: Path
) -> None:
    store = private_store(base, tmp_path, qemu="6.0.1", build="older")
    place = ("--template-dir", str(store.root))
    done = base.tool("vm", "start", "--template", NAME, *place)
    told = done.stderr.decode()
    assert done.returncode == 1
    assert f"template {NAME}: it was saved with qemu 6.0.1, and here is 7." in told
    assert "it was saved with build older, and here is " in told
    assert f"make it anew with: kata-agent-ctl vm template create --force {NAME}" in told
    (listed,) = json.loads(base.tool("vm", "template", "list", "--json", *place).stdout)
    assert (listed["name"], listed["usable"]) == (NAME, False)
    assert listed["why_not"].startswith("it was saved with qemu 6.0.1, and here is ")
    (listed,) = json.loads(base.tool("vm", "template", "list", "--json").stdout)
    assert (listed["usable"], listed["memory_mib"], listed["why_not"]) == (True, 256, None)


def test_copies_that_stay_get_disks_and_interfaces_of_their_own(base: Base, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"on the disk".ljust(1 << 20, b"\0"))
    found = []
    for _ in range(2):
        done = base.tool("vm", "start", "--template", NAME, "--nic", "new", "--disk", str(disk), "--json")
        assert done.returncode == 0, done.stderr.decode()
        found.append(json.loads(done.stdout))
        disk = tmp_path / "other"
        disk.write_bytes(b"on the other".ljust(1 << 20, b"\0"))
    try:
        assert found[0]["nics"] != found[1]["nics"]
        assert asyncio.run(look_at_devices(found[0])) == b"on the disk"
        assert asyncio.run(look_at_devices(found[1])) == b"on the othe"
    finally:
        for machine in found:
            base.tool("vm", "stop", machine["name"])  # one whose sandbox was destroyed has ended by itself


async def look_at_devices(machine: dict[str, Any]) -> bytes:
    """The interface has its address; what the disk begins with."""
    async with asyncio.timeout(DEADLINE_S), await connect(machine["address"]) as client:
        (mac,) = machine["nics"]
        interface = types_pb2.Interface(
            name="eth0", hwAddr=mac, devicePath=machine["plugged"]["nic0"], mtu=1500
        )
        await client.update_interface(pb.UpdateInterfaceRequest(interface=interface))
        assert mac.upper() in [item.hwAddr for item in (await client.list_interfaces()).Interfaces]
        device = pb.Device(type="blk", id=machine["plugged"]["disk0"], container_path="/dev/data")
        async with open_sandbox(client, share=False) as sandbox:
            spec = plan_python("print(open('/dev/data').read(11), end='')")
            spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]  # type: ignore[index]
            spec["linux"]["devices"] = [{"path": "/dev/data", "type": "b", "major": 0, "minor": 0}]  # type: ignore[index]
            async with sandbox.container(spec, devices=[device]) as container:
                await container.start()
                output, errors = await read_all(container), await read_all(container, stderr=True)
                assert await container.wait(60) == 0, errors.decode()
                return output


def test_a_copy_with_a_shared_folder_runs_containers_from_it(base: Base) -> None:
    share = BUILD / "rootfs" / "busybox"
    done = base.tool("vm", "start", "--template", NAME, "--share", str(share), "--json")
    assert done.returncode == 0, done.stderr.decode()
    machine = json.loads(done.stdout)
    assert machine["share"] == str(share)

    async def run() -> bytes:
        async with (
            asyncio.timeout(DEADLINE_S),
            await connect(machine["address"]) as client,
            open_sandbox(client) as sandbox,
            sandbox.container(
                plan_spec(ProcessPlan(["head", "-c", "4", "/etc/passwd"]), GUEST_SHARE)
            ) as container,
        ):
            await container.start()
            return await read_all(container)

    assert asyncio.run(run()) == b"root"
    base.tool("vm", "stop", machine["name"])
    base.check_whole()


def test_run_has_its_root_on_a_disk_and_what_it_writes_ends_with_it(base: Base) -> None:
    script = "cat; echo err >&2; cat /etc/passwd > /note && cat /note | head -c 4; exit 7"
    done = base.tool("run", "--template", NAME, "--read-write", "--", "sh", "-c", script, input=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\nroot", b"err\n")
    done = base.tool("run", "--template", NAME, "--", "sh", "-c", "echo > /note")
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
    assert len(list(Path(f"{base.vm_dir}-cache/roots").glob("*.erofs"))) == 1, "the image is made once"
    assert find_processes(str(base.vm_dir)) == []


def test_a_pool_hands_out_replaces_the_dead_and_gives_back_all_that_nobody_took(base: Base) -> None:
    with pool(base, 2) as (process, wait_told):
        wait_told("2 of 2 ready")
        done = base.tool("run", "--pool", NAME, "--", "sh", "-c", "hostname; exit 5")
        assert done.returncode == 5, done.stderr.decode()
        assert json.loads(base.tool("vm", "list", "--json").stdout) == [], "it ended with the command"
        wait_told("2 of 2 ready")
        stays = json.loads(base.tool("vm", "start", "--pool", NAME, "--json").stdout)
        wait_told("2 of 2 ready")
        (first, *_) = [
            each
            for each in find_processes("qemu-system")
            if str(base.vm_dir) in each and stays["name"] not in each
        ]
        assert kill_machine(first.split("-name ")[1].split()[0])
        wait_told("one that stood still has ended")
        wait_told("2 of 2 ready")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        left = [each for each in find_processes("qemu-system") if str(base.vm_dir) in each]
        assert len(left) == 1, "only the one that was handed out"
        assert asyncio.run(check(stays["address"]))
    assert base.tool("vm", "stop", stays["name"]).returncode == 0
    assert [path.name for path in base.vm_dir.iterdir() if path.is_dir()] == []
    base.check_whole()


async def check(address: str) -> bool:
    async with asyncio.timeout(DEADLINE_S), await connect(address) as client:
        await client.check()
        return True


def kill_machine(name: str) -> bool:
    """Kill the QEMU of this name, and return when it is dead; whether there was one."""
    killed = False
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # others come and go
            if f"-name\0{name}\0".encode() in (entry / "cmdline").read_bytes():
                pidfd = os.pidfd_open(int(entry.name))
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                killed = bool(select.select([pidfd], [], [], DEADLINE_S)[0])
                os.close(pidfd)
    return killed


@contextmanager
def pool(base: Base, size: int) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """A pool in the foreground of nobody; waits for what it says."""
    process = subprocess.Popen(
        [TOOL, "vm", "pool", "--template", NAME, "--size", str(size)],
        env=tool_environment(base.vm_dir),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None

    def wait_told(text: str) -> None:
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.decode())
            if text in said[-1]:
                return
        raise AssertionError(f"the pool did not say {text!r}, but {said}")

    late = threading.Timer(DEADLINE_S, process.kill)  # who waits for its words then hears the end
    late.start()
    try:
        yield process, wait_told
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_maker_killed_in_the_middle_leaves_nothing(base: Base, tmp_path: Path) -> None:
    root = tmp_path / "templates"
    root.mkdir(mode=0o700)

    async def kill_in_the_middle() -> None:
        began = asyncio.Event()
        with open_watch(root, IN_CREATE) as fd:
            asyncio.get_running_loop().add_reader(fd, lambda: (os.read(fd, 65536), began.set()))
            maker = await asyncio.create_subprocess_exec(
                TOOL,
                "vm",
                "template",
                "create",
                NAME,
                "--template-dir",
                str(root),
                env=tool_environment(base.vm_dir),
            )
            async with asyncio.timeout(DEADLINE_S):
                while not list(root.glob("data-*")):
                    await began.wait()
                    began.clear()
            asyncio.get_running_loop().remove_reader(fd)
            maker.kill()
            await maker.wait()

    asyncio.run(kill_in_the_middle())
    done = base.tool("vm", "template", "list", "--template-dir", str(root))
    assert done.stdout.startswith(b"no templates")
    done = base.tool("vm", "template", "remove", NAME, "--template-dir", str(root))
    assert f"template {NAME}: there is none".encode() in done.stderr
    TemplateStore(root).sweep()
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_a_disk_that_is_full_leaves_no_template_and_says_so(base: Base, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(small)], check=True)
    try:
        done = base.tool("vm", "template", "create", NAME, "--memory", "192", "--template-dir", str(small))
        assert done.returncode == 1
        assert b"the machine cannot be saved there: No space left on device" in done.stderr
        assert [path.name for path in small.iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
