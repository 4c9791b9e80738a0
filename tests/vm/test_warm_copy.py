"""Copies of a machine that was warmed up: what they have for themselves, and that each has names of its own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kata_bench import container
from kata_bench.copies import ask_guest, config, quiesce, read_own, time_calls
from kata_bench.own_memory import count_dirty, parse_guest_pages, read_own_frames
from kata_bench.wire import Client, connect
from kata_host.vm.qemu import QemuVm, launch
from kata_host.vm.saved import Saved, restore, resume, save

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

CALL_TIMEOUT_S = 120.0
DIRTY_MB = 6.0
READY_SHARE = 0.25


def read_machine_id(address: str) -> str:
    command = ["cat", "/guest-proc/1/root/etc/machine-id"]
    with Client(connect(address, CALL_TIMEOUT_S)) as client:
        container.create(client, container.make_request("reader", "/", command, guest_proc=True))
        container.start(client, "reader")
        text = b"".join(container.read_output(client, "reader")).decode()
        assert container.wait(client, "reader") == 0
    return text.strip()


async def use(vm: QemuVm, saved: Saved) -> dict[str, float]:
    """Run a first container; MB of the copy's own by whose they are."""
    assert vm.child is not None
    await asyncio.to_thread(time_calls, vm.address, time.monotonic())
    own = read_own_frames(vm.child.pid, saved.memory)
    return count_dirty(own, parse_guest_pages(await asyncio.to_thread(ask_guest, vm.address)))


def test_a_warm_copy_has_little_for_itself_and_names_of_its_own(tmp_path: Path) -> None:
    async def body() -> None:
        async with launch(config()) as vm:
            notes = await asyncio.to_thread(quiesce, vm.address, warm=True)
            cold_mb = read_own(vm)
            saved = await save(vm, tmp_path / "saved")
        try:
            assert notes["rehearse"].startswith("rounds of ")
            assert int(notes["settle memory"].split()[-2]) > 10_000, notes["settle memory"]
            before = saved.memory.stat()
            async with restore(saved, paused=True) as one, restore(saved, paused=True) as other:
                for vm, digit in ((one, "1"), (other, "2")):
                    report = await resume(vm, hostname=f"copy{digit}", machine_id=digit * 32)
                    assert f"hostname copy{digit}" in {step.name: step.note for step in report.steps}["names"]
                    assert read_own(vm) <= READY_SHARE * cold_mb
                dirty = await use(one, saved)
                assert dirty["agent"] + dirty["PID 1"] <= DIRTY_MB, dirty
                for vm, digit in ((one, "1"), (other, "2")):
                    assert await asyncio.to_thread(read_machine_id, vm.address) == digit * 32
            after = saved.memory.stat()
            assert (after.st_mtime_ns, after.st_blocks) == (before.st_mtime_ns, before.st_blocks)
        finally:
            saved.memory.unlink()

    asyncio.run(body())
