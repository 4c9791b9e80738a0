"""What a saved machine is made of: sparse memory, a folder that is whole or not there, versions that must agree."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kata_host.vm.base import Accelerator, GuestFiles, VmConfig, VmError
from kata_host.vm.finishing import finish, run_in_thread
from kata_host.vm.guest_memory import copy_memory, find_used, load_memory
from kata_host.vm.own_devices import VSOCK, find_plugged, plan_calls
from kata_host.vm.saved import check_config, plan_copy
from kata_host.vm.saved_folder import Saved, open_draft, publish, read_saved
from kata_host.vm.versions import Versions, describe_qemu, find_differences, read_versions

PAGE = 4096
GUEST = GuestFiles(Path("/g/vmlinuz"), Path("/g/initrd.img"), Path("/t/vhost-device-vsock"))
CONFIG = VmConfig(GUEST, savable=True)
VERSIONS = Versions("7.2.22", "tcg", "max,-cx16", "d1bc", "c860")
FAKE_SAVED = Saved(Path("/s"), CONFIG, VERSIONS)


def save_fake(folder: Path) -> Saved:
    saved = replace(FAKE_SAVED, folder=folder)
    with open_draft(folder) as draft:
        os.pwrite(draft.memory, b"m" * PAGE, PAGE)
        os.write(draft.state, b"state")
        publish(draft, saved)
    return saved


def test_runs_of_pages_that_are_not_zero() -> None:
    data = bytes(PAGE) + b"a" + bytes(2 * PAGE - 1) + b"b" * PAGE + b"c"
    assert list(find_used(data)) == [(PAGE, 2 * PAGE), (3 * PAGE, 4 * PAGE + 1)]
    assert list(find_used(bytes(3 * PAGE))) == []
    assert list(find_used(b"")) == []


def test_a_copy_of_memory_is_equal_and_has_holes_where_it_is_zero(tmp_path: Path) -> None:
    size = 64 << 20
    memory = os.memfd_create("guest")
    os.ftruncate(memory, size)
    os.pwrite(memory, b"x" * PAGE, size - PAGE)  # the last page
    os.pwrite(memory, bytes(1 << 20), 8 << 20)  # written, and zero
    os.pwrite(memory, os.urandom(3 << 20), (16 << 20) - PAGE)  # over several pieces
    copy = tmp_path / "memory"
    with copy.open("w+b") as target:
        copied = copy_memory(memory, target.fileno(), threading.Event())
    assert copied == (3 << 20) + PAGE
    assert copy.stat().st_blocks * 512 < 4 << 20
    assert copy.read_bytes() == os.pread(memory, size, 0)
    with load_memory(copy, threading.Event()) as again:
        assert os.pread(again.fileno(), size, 0) == os.pread(memory, size, 0)
    os.close(memory)


def test_work_in_a_thread_has_stopped_when_its_cancelled_caller_goes_on() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(stopped: threading.Event) -> None:
        begun.set()
        assert stopped.wait(30)
        ended.set()

    async def run() -> None:
        task = asyncio.create_task(run_in_thread(work))  # noqa: TID251 - the test cancels it
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(run())


def test_what_must_be_finished_is_before_a_cancellation_takes_effect() -> None:
    async def run() -> list[str]:
        begun, may_end, told = asyncio.Event(), asyncio.Event(), []

        async def work() -> None:
            begun.set()
            await may_end.wait()
            told.append("finished")

        task = asyncio.create_task(finish(work()))  # noqa: TID251 - the test cancels it
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return told

    assert asyncio.run(run()) == ["finished"]


def test_a_failure_of_what_is_finished_is_the_caller_s() -> None:
    async def work() -> None:
        raise VmError("no")

    with pytest.raises(VmError, match=r"^no$"):
        asyncio.run(finish(work()))


def test_a_saved_machine_is_read_as_it_was_written_and_private(tmp_path: Path) -> None:
    saved = save_fake(tmp_path / "s")
    assert read_saved(saved.folder) == saved
    assert saved.folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in saved.folder.iterdir()} == {
        "memory": 0o600, "state": 0o600, "machine.json": 0o600,
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    unreadable = Saved(folder, CONFIG, versions=None)  # type: ignore[arg-type]  # found when all but that is there
    with pytest.raises(TypeError), open_draft(folder) as draft:
        publish(draft, unreadable)
    assert list(tmp_path.iterdir()) == []


def test_nothing_can_be_seen_before_it_is_whole(tmp_path: Path) -> None:
    with open_draft(tmp_path / "s") as draft:
        os.write(draft.memory, b"half")
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(VmError, match=r"/s: is there already; remove it"), open_draft(tmp_path / "s"):
        pass


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "state").unlink(), "state is missing"),
        (lambda folder: (folder / "machine.json").unlink(), "machine.json: No such file or directory"),
        (lambda folder: (folder / "machine.json").write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / "machine.json").write_text('{"format": 2}'), "format 2; this program reads 1"),
        (lambda folder: (folder / "machine.json").write_text('{"format": 1}'), "KeyError: 'versions'"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_saved_machine_is_told_with_what_is_wrong(
    tmp_path: Path, change, told: str
) -> None:
    folder = save_fake(tmp_path / "s").folder
    change(folder)
    with pytest.raises(VmError, match=told):
        read_saved(folder)


def test_each_difference_is_told_with_what_was_and_what_is() -> None:
    assert find_differences(VERSIONS, VERSIONS) == ()
    other = replace(VERSIONS, qemu="8.0.0", cpu="host")
    assert find_differences(VERSIONS, other) == (
        "it was saved with qemu 7.2.22, and here is 8.0.0",
        "it was saved with cpu max,-cx16, and here is host",
    )


def test_the_build_is_known_by_its_manifest_and_else_by_the_files(tmp_path: Path) -> None:
    guest = GuestFiles(tmp_path / "vmlinuz", tmp_path / "initrd.img")
    guest.kernel.write_bytes(b"kernel")
    guest.initrd.write_bytes(b"initrd")
    tcg = Accelerator("tcg", "")
    bare = read_versions(VmConfig(guest), tcg, "max", "7.2.22")
    assert bare == Versions("7.2.22", "tcg", "max", bare.kernel, bare.build)
    outputs = {name: {"size": 6, "sha256": name * 8} for name in ("vmlinuz", "initrd.img")}
    (tmp_path / "manifest.json").write_text(json.dumps({"inputs": "abc", "outputs": outputs}))
    known = read_versions(VmConfig(guest), tcg, "max", "7.2.22")
    assert (known.kernel, known.build) == ("vmlinuzvmlin", "abc-initrd.imgin")
    guest.kernel.write_bytes(b"another kernel")
    changed = read_versions(VmConfig(guest), tcg, "max", "7.2.22")
    assert changed.kernel not in (bare.kernel, known.kernel)


def test_under_kvm_the_host_s_processor_counts(tmp_path: Path) -> None:
    guest = GuestFiles(tmp_path / "vmlinuz", tmp_path / "initrd.img")
    guest.kernel.touch()
    guest.initrd.touch()
    cpu = read_versions(VmConfig(guest), Accelerator("kvm", ""), "host", "7.2.22").cpu
    assert cpu.startswith("host (")
    assert ", features " in cpu


def test_qemu_s_version_is_written_as_the_program_writes_it() -> None:
    answer = {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "Debian 1:7.2+dfsg-7"}
    assert describe_qemu(answer) == "7.2.22 (Debian 1:7.2+dfsg-7)"
    assert describe_qemu({**answer, "package": ""}) == "7.2.22"


def test_a_device_of_the_command_line_is_plugged_by_the_same_words() -> None:
    arguments = ("-chardev", "socket,id=vsock,path=/a,,b", "-device", "vhost-user-vsock-pci,chardev=vsock")
    address = {"type": "unix", "data": {"path": "/a,b"}}
    assert plan_calls(arguments, VSOCK) == (
        (
            "chardev-add",
            {"id": "vsock", "backend": {"type": "socket", "data": {"addr": address, "server": False}}},
        ),
        ("device_add", {"driver": "vhost-user-vsock-pci", "chardev": "vsock", "id": "vsock0", "bus": "rp6"}),
    )
    kernel = ("-device", "vhost-vsock-pci,vhostfd=9,guest-cid=77")
    assert plan_calls(kernel, VSOCK)[0][1] == {
        "driver": "vhost-vsock-pci", "vhostfd": "9", "guest-cid": 77, "id": "vsock0", "bus": "rp6",
    }  # fmt: skip
    assert plan_calls((), VSOCK) == ()


def test_what_came_after_the_start_is_found_by_name() -> None:
    class Machine:
        async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
            assert (command, arguments) == ("qom-list", {"path": "/machine/peripheral"})
            names = ("type", "rp0", "rp7", "serial0", "channel0", "bell0", "nic0", "nic1", "data")
            return [{"name": name} for name in names]

    found = asyncio.run(find_plugged(Machine(), replace(CONFIG, nics=("02:00:00:00:00:01",))))
    assert found == ("data", "nic1")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (VmConfig(GUEST), "not started as one that can be saved"),
        (replace(CONFIG, ksm=True), "--ksm"),
        (replace(CONFIG, disks=(Path("/d"),)), r"disks \(/d\)"),
        (replace(CONFIG, memory_device_mib=64), "--memory-device"),
    ],
)
def test_a_machine_that_cannot_be_saved_is_told_why(config: VmConfig, told: str) -> None:
    with pytest.raises(VmError, match=told):
        check_config(config)


def test_a_copy_may_have_a_name_and_a_share_of_its_own_and_no_other_hardware() -> None:
    check_config(CONFIG)
    assert plan_copy(FAKE_SAVED, None) == CONFIG
    wanted = replace(CONFIG, name="copy", share=Path("/share"), boot_timeout_s=5)
    assert plan_copy(FAKE_SAVED, wanted) == wanted
    with pytest.raises(VmError, match="has the hardware that was saved"):
        plan_copy(FAKE_SAVED, replace(CONFIG, cpus=3))
