"""What each kind of root costs in memory: in the guest before its first container, and on the host, for one machine and
for each of four that run side by side.

The guest's figure is the machine's size less what its kernel calls available, by GetMetrics: nothing has run in it but
PID 1 and the agent. The host's is the proportional set size of the guest's memory and of the root that is mapped into
it, in all processes of the machine; a page that four machines map counts a quarter. The emulator's own memory, which
has nothing to do with the root, is left out.
"""

from __future__ import annotations

import asyncio
import re
import statistics
from contextlib import AsyncExitStack
from pathlib import Path

from kata_bench.native import ROOT, check
from kata_bench.result import Effort, Result
from kata_bench.wire import AGENT, Client, connect
from kata_host.guest import find_guest
from kata_host.vm.base import VmConfig, VmError
from kata_host.vm.ksm import check_ksm
from kata_host.vm.qemu import QemuVm, launch
from kata_protocols.gen import agent_pb2

_CALL_TIMEOUT_S = 120.0
_MACHINES = 4
_FIGURES = {
    "initrd": ("initrd-guest", "initrd-host-one", "initrd-host-four"),
    "erofs": ("erofs-guest", "erofs-host-one", "erofs-host-four"),
    "erofs-dax": ("erofs-dax-guest", "erofs-dax-host-one", "erofs-dax-host-four"),
}
_AVAILABLE = re.compile(r'^kata_guest_meminfo\{item="mem_available"\} (\S+)$', re.MULTILINE)
_GUEST_MAPPINGS = ("/memfd:memory-backend-memfd (deleted)", "/root.erofs")


def read_used(address: str, memory_mib: int) -> float:
    """Megabytes of the machine that are not available to a first container. RuntimeError: the guest does not say."""
    with Client(connect(address, _CALL_TIMEOUT_S)) as client:
        check(client)
        answer = client.call(AGENT, "GetMetrics", agent_pb2.GetMetricsRequest(), agent_pb2.Metrics)
    found = _AVAILABLE.search(answer.metrics)
    if found is None:
        raise RuntimeError("GetMetrics tells no available memory of the guest")
    return memory_mib * 1.048576 - float(found[1]) / 1e6


def parse_mapped(smaps: str) -> float:
    """Megabytes that a process has of the guest's memory and root, a shared page by its part. Pure."""
    total = 0
    ours = False
    for line in smaps.splitlines():
        key = line.split(maxsplit=1)[0]
        if not key.endswith(":"):
            ours = line.endswith(_GUEST_MAPPINGS)
        elif ours and key == "Pss:":
            total += int(line.split()[1])
    return total * 1024 / 1e6


def read_mapped(vm: QemuVm) -> float:
    """The same of all processes of a machine."""
    total = 0.0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"{vm.folder}/".encode() in (folder / "cmdline").read_bytes():
                total += parse_mapped((folder / "smaps").read_text())
        except OSError:
            continue  # it has ended
    return total


async def measure_kind(kind: str, machines: int) -> list[Result]:
    """The three figures of a kind of root."""
    config = VmConfig(guest=find_guest(str(ROOT / "build" / "guest")), image=kind)
    guest, one, four = _FIGURES[kind]
    async with AsyncExitStack() as stack:
        vms = [await stack.enter_async_context(launch(config))]
        used = await asyncio.to_thread(read_used, vms[0].address, config.memory_mib)
        alone = read_mapped(vms[0])
        for _ in range(machines - 1):
            vms.append(await stack.enter_async_context(launch(config)))
            await asyncio.to_thread(read_used, vms[-1].address, config.memory_mib)
        together = [read_mapped(vm) for vm in vms]
    return [
        Result(guest, used, note=f"of {config.memory_mib} MiB"),
        Result(one, alone, note=f"{vms[0].accelerator.name}, vsock by {vms[0].vsock_kind}"),
        Result(
            four,
            statistics.fmean(together),
            tuple(together),
            note=f"{machines} machines; {describe_ksm(vms[0])}",
        ),
    ]


def describe_ksm(vm: QemuVm) -> str:
    """Why KSM took no part, for the reader of the figures."""
    try:
        check_ksm(() if vm.vsock_kind == "vhost-vsock" else (vm.vsock_kind,))
    except VmError as refused:
        return f"without KSM ({refused})"
    return "without KSM, which this host has: --ksm"


async def measure_all(effort: Effort) -> list[Result]:
    """All kinds, one after the other."""
    results: list[Result] = []
    for kind in _FIGURES:
        results += await measure_kind(kind, effort.pick(_MACHINES, 2))
    return results


def measure_images(effort: Effort) -> list[Result]:
    """Nine figures in MB."""
    return asyncio.run(measure_all(effort))
