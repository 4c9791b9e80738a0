"""One machine from a template or a cold one: started, timed, weighed.

A machine is started as a program starts it, `launch` or `restore`, in this process. Owns: the machine that is measured
and what is asked of it. Must not know: figures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from kata_bench import container, in_guest
from kata_bench.native import ROOT, check
from kata_bench.own_memory import count_dirty, parse_guest_pages, parse_private, read_own_frames
from kata_bench.wire import SANDBOX, Client, connect
from kata_host.guest import find_guest
from kata_host.vm.base import VmConfig
from kata_host.vm.qemu import QemuVm, launch
from kata_host.vm.saved import Saved, restore, save
from kata_protocols.gen import oci_pb2
from kata_protocols.gen import sandbox_pb2 as pb

_CALL_TIMEOUT_S = 120.0
_WARM_TIMEOUT_MS = 100_000
_ROOTFS = "/"
_COLD_MEMORY = "/memfd:memory-backend-memfd (deleted)"
# When a guest's processors begin to run.
_RUNNING = ("running", "qemu answers")

Machine = AbstractAsyncContextManager[QemuVm]


class Times(NamedTuple):
    """Seconds from the call that started a machine, and from when its processors ran."""

    check_s: float
    exit_s: float
    running_s: float


class Own(NamedTuple):
    """MB that a machine has for itself: when it is ready, after its first container, after twenty."""

    ready_mb: float
    first_mb: float
    used_mb: float


def config() -> VmConfig:
    """The machine of both kinds."""
    return VmConfig(guest=find_guest(str(ROOT / "build" / "guest")), channel="serial", savable=True)


def read_own(vm: QemuVm) -> float:
    """MB of the guest's memory that are this machine's alone."""
    assert vm.child is not None  # noqa: S101 - it runs
    smaps = Path(f"/proc/{vm.child.pid}/smaps").read_text()
    return parse_private(smaps, (_COLD_MEMORY, "/memory"))


async def time_start(machine: Machine, begin: float) -> Times:
    """One machine, from its start to its first container's exit."""
    async with machine as vm:
        check_s, exit_s = await asyncio.to_thread(time_calls, vm.address, begin)
        running = next(stamp for event in _RUNNING for stamp in vm.timeline.stamps if stamp.event == event)
        return Times(check_s, exit_s, vm.timeline.started + running.host_s - begin)


def time_calls(address: str, begin: float) -> tuple[float, float]:
    """Seconds since `begin` when Check is answered and when the first container has ended; blocks."""
    with Client(connect(address, _CALL_TIMEOUT_S)) as client:
        check(client)
        check_s = time.monotonic() - begin
        container.create_sandbox(client)
        container.create(client, container.make_request("first", _ROOTFS, ["true"]))
        container.start(client, "first")
        container.wait(client, "first")
        return check_s, time.monotonic() - begin


async def measure_own(vm: QemuVm, containers: int) -> Own:
    """What a machine has for itself on its way; it is ready."""

    def run(first: int, last: int) -> None:
        with Client(connect(vm.address, _CALL_TIMEOUT_S)) as client:
            check(client)
            if first == 0:
                container.create_sandbox(client)
            for number in range(first, last):
                container.run_to_end(client, container.make_request(f"use{number}", _ROOTFS, ["true"]))

    ready = read_own(vm)
    await asyncio.to_thread(run, 0, 1)
    one = read_own(vm)
    await asyncio.to_thread(run, 1, containers)
    return Own(ready, one, read_own(vm))


async def measure_profile(saved: Saved) -> dict[str, float]:
    """MB that a copy has for itself when its first container has ended, by whose they are."""
    async with restore(saved) as vm:
        assert vm.child is not None  # noqa: S101 - it runs
        await asyncio.to_thread(time_calls, vm.address, time.monotonic())
        own = read_own_frames(vm.child.pid, saved.memory)
        return count_dirty(own, parse_guest_pages(await asyncio.to_thread(ask_guest, vm.address)))


def ask_guest(address: str) -> str:
    """What `in_guest` prints in a container that sees the guest's /proc; blocks."""
    source = Path(in_guest.__file__).read_text()
    request = container.make_request(
        "pages", _ROOTFS, ["/usr/bin/python3.13", "-ISB", "-c", source], guest_proc=True
    )
    kept = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]
    request.OCI.Process.Capabilities.CopyFrom(
        oci_pb2.LinuxCapabilities(Bounding=kept, Effective=kept, Permitted=kept)
    )
    with Client(connect(address, _CALL_TIMEOUT_S)) as client:
        container.create(client, request)
        container.start(client, "pages")
        text = b"".join(container.read_output(client, "pages")).decode()
        if container.wait(client, "pages"):
            raise RuntimeError("the guest's pages could not be read; its console tells why")
    return text


@asynccontextmanager
async def open_template(folder: Path, *, warm: bool) -> AsyncIterator[Saved]:
    """A template, gone with the context."""
    async with launch(config()) as vm:
        await asyncio.to_thread(quiesce, vm.address, warm=warm)
        saved = await save(vm, folder)
    yield saved


def quiesce(address: str, *, warm: bool) -> dict[str, str]:
    """Bring a machine to a halt, warmed up or not; each step's note. Blocks."""
    with Client(connect(address, _CALL_TIMEOUT_S)) as client:
        check(client)
        request = pb.QuiesceRequest(warm=warm, timeout_ms=_WARM_TIMEOUT_MS)
        answer = client.call(SANDBOX, "Quiesce", request, pb.QuiesceResponse)
    return {step.name: step.note for step in answer.steps}
