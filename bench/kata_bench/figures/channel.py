"""The serial channel beside vsock, each in a machine of its own: a Check, and a container's output as it is read.

The proxy of the serial channel runs in this process, as it does in a machine's keeper.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from kata_bench import container
from kata_bench.native import ROOT, check
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import Client, connect
from kata_host.vm.base import GuestFiles, VmConfig
from kata_host.vm.qemu import launch

_GUEST = ROOT / "build" / "guest"
_VSOCK = ROOT / "build" / "tools" / "vhost-device-vsock"
_TIMEOUT_S = 120.0
_CHUNK_BYTES = 1 << 20
# The channel, and what its figures are called.
_CHANNELS: tuple[tuple[Literal["vsock", "serial"], str, str], ...] = (
    ("vsock", "channel-vsock-check", "channel-vsock-output"),
    ("serial", "channel-serial-check", "channel-serial-output"),
)


def time_checks(client: Client, count: int) -> list[float]:
    """Microseconds of each."""
    samples = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        check(client)
        samples.append((time.perf_counter_ns() - begin) / 1e3)
    return samples


def time_output(client: Client, name: str, times: int) -> float:
    """MB/s of a container's output, read a MiB at a time: the guest's interpreter, so many times over."""
    command = ["cat", *["/usr/bin/python3.13"] * times]
    container.create(client, container.make_request(name, "/", command))
    container.start(client, name)
    begin = time.perf_counter()
    size = sum(map(len, container.read_output(client, name, _CHUNK_BYTES)))
    seconds = time.perf_counter() - begin
    container.wait(client, name)
    container.remove(client, name)
    if size < times * _CHUNK_BYTES:
        raise RuntimeError(f"read {size} bytes of {times} times the interpreter")
    return size / seconds / 1e6


def measure_through(address: str, names: list[str], effort: Effort) -> list[Result]:
    """Both figures of one channel; blocks."""
    with Client(connect(address, _TIMEOUT_S)) as client:
        container.create_sandbox(client)
        time_checks(client, 20)
        checks = time_checks(client, effort.pick(400, 20))
        rates = [
            time_output(client, f"out{number}", effort.pick(3, 1)) for number in range(effort.pick(3, 1))
        ]
    return [
        median_result(names[0], checks)._replace(samples=()),
        median_result(names[1], rates),
    ]


async def measure_in_vms(effort: Effort) -> list[Result]:
    """Boot, measure, and leave nothing behind, for each channel."""
    program = _VSOCK if _VSOCK.exists() else None
    guest = GuestFiles(kernel=_GUEST / "vmlinuz", initrd=_GUEST / "initrd.img", vsock_program=program)
    results: list[Result] = []
    for channel, *names in _CHANNELS:
        async with launch(VmConfig(guest, channel=channel)) as vm:
            results += await asyncio.to_thread(measure_through, vm.address, names, effort)
    return results


def measure_channel(effort: Effort) -> list[Result]:
    """`channel-vsock-check`, `channel-serial-check` in us, `channel-vsock-output`, `channel-serial-output` in MB/s."""
    return asyncio.run(measure_in_vms(effort))
