"""The machine as data: command lines, choices, folders, consoles, the doorbell. No machine is started."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kata_host import guest
from kata_host.cli.timeline import format_table, plan_rows
from kata_host.vm import accel, state, virtiofs
from kata_host.vm.base import Accelerator, GuestFiles, Stamp, Timeline, VmConfig, VmError
from kata_host.vm.command_line import plan_command
from kata_host.vm.config_json import dump_config, load_config
from kata_host.vm.console import find_panic, find_trouble, read_console
from kata_host.vm.doorbell import answer_rings, iterate_rings
from kata_host.vm.qemu import launch
from kata_host.vm.vsock import has_vsock, open_vsock, reserve_cid
from kata_host.vm.watch import wait_exists
from kata_testing.fake_host import run

TCG = Accelerator("tcg", "test")
GUEST = GuestFiles(Path("/g/vmlinuz"), Path("/g/initrd.img"), Path("/t/vhost-device-vsock"))


def words_after(command: list[str], option: str) -> list[str]:
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def plan(config: VmConfig, accelerator: Accelerator = TCG) -> list[str]:
    return plan_command(config, accelerator, ("-device", "a-vsock"), Path("/run/vm"), 7, "1700")


def test_guest_memory_is_a_shared_memfd_of_the_machines_size() -> None:
    command = plan(VmConfig(GUEST, memory_mib=768))
    assert "memory-backend-memfd,id=mem,size=768M,share=on" in words_after(command, "-object")
    assert words_after(command, "-m") == ["768M,slots=4,maxmem=4864M"]


@pytest.mark.parametrize(("name", "cpu"), [("tcg", "max,-cx16"), ("kvm", "host")])
def test_emulation_goes_without_cmpxchg16b(name: str, cpu: str) -> None:
    command = plan(VmConfig(GUEST), Accelerator(name, ""))  # type: ignore[arg-type]
    assert words_after(command, "-cpu") == [cpu]
    assert words_after(command, "-accel") == [name]


@pytest.mark.parametrize(("name", "accel"), [("tcg", "tcg,thread=single"), ("kvm", "kvm")])
def test_emulated_processors_take_turns_where_that_is_asked_for(name: str, accel: str) -> None:
    asked = Accelerator(name, "")  # type: ignore[arg-type]
    command = plan_command(VmConfig(GUEST), asked, (), Path("/run/vm"), 7, "1700", one_thread=True)
    assert words_after(command, "-accel") == [accel]


@pytest.mark.parametrize(("word", "wanted"), [("", False), ("multi", False), ("single", True)])
def test_the_environment_says_whether_they_take_turns(word: str, wanted: bool) -> None:
    assert accel.wants_one_thread({accel.VARIABLE: word}) is wanted
    assert accel.wants_one_thread({}) is False


def test_a_word_that_says_neither_is_refused() -> None:
    with pytest.raises(VmError, match="KATA_TCG_THREAD=two: give single or multi"):
        accel.wants_one_thread({accel.VARIABLE: "two"})


def test_the_kernel_hears_of_the_doorbell_and_more_words_come_last() -> None:
    (words,) = words_after(plan(VmConfig(GUEST, kernel_args=("loglevel=5", "agent.log=debug"))), "-append")
    assert words.endswith("kata.doorbell=1700 loglevel=5 agent.log=debug")
    assert {"panic=-1", "no_timer_check", "memory_hotplug.online_policy=auto-movable"} <= set(words.split())


def test_a_machine_that_can_be_saved_has_the_serial_channel_and_room_for_more() -> None:
    devices = words_after(plan(VmConfig(GUEST, savable=True)), "-device")
    assert len([word for word in devices if word.startswith("pcie-root-port")]) == 8
    assert "virtio-serial-pci,id=serial0" in devices
    assert "vmgenid,guid=auto" in devices
    assert not [word for word in devices if "vhost" in word or word == "a-vsock"]


def test_a_copy_is_the_machine_that_was_saved_and_waits_for_its_state() -> None:
    config = VmConfig(GUEST, savable=True, memory_mib=256, nics=("02:00:00:00:00:01",))
    before = words_after(plan(config), "-device")
    copy = replace(config, share=Path("/s"), channel="vsock")
    memory = "mem-path=/saved/memory,share=off"
    command = plan_command(copy, TCG, ("-device", "x"), Path("/run/vm"), 7, "1700", saved_memory=memory)
    assert words_after(command, "-device") == before
    assert f"memory-backend-file,id=mem,size=256M,{memory}" in words_after(command, "-object")
    assert words_after(command, "-incoming") == ["defer"]


@pytest.mark.parametrize(
    ("more", "told"), [({"share": Path("/s")}, "a share"), ({"channel": "vsock"}, "vsock")]
)
def test_what_qemu_cannot_save_is_refused_before_anything_starts(
    more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    guest = GuestFiles(tmp_path / "vmlinuz", tmp_path / "initrd")
    guest.kernel.touch()
    guest.initrd.touch()

    async def boot() -> None:
        with pytest.raises(VmError, match=f"^{told}: a machine that can be saved has none"):
            async with launch(VmConfig(guest, savable=True, program="true", **more)):
                pass

    asyncio.run(boot())


@pytest.mark.parametrize("savable", [False, True])
def test_free_memory_goes_back_to_the_host_but_not_out_of_a_file_that_copies_map(*, savable: bool) -> None:
    devices = words_after(plan(VmConfig(GUEST, savable=savable)), "-device")
    assert any("free-page-reporting=on" in device for device in devices) is not savable


def test_each_disk_is_a_raw_image_that_can_be_found_again() -> None:
    command = plan(VmConfig(GUEST, disks=(Path("/d/a,b"), Path("/d/c"))))
    assert [json.loads(word) for word in words_after(command, "-blockdev")] == [
        {"driver": "raw", "node-name": "disk0", "file": {"driver": "file", "filename": "/d/a,b"}},
        {"driver": "raw", "node-name": "disk1", "file": {"driver": "file", "filename": "/d/c"}},
    ]
    devices = [word for word in words_after(command, "-device") if "blk" in word]
    assert devices == ["virtio-blk-pci,drive=disk0,serial=disk0", "virtio-blk-pci,drive=disk1,serial=disk1"]
    assert "-blockdev" not in plan(VmConfig(GUEST))


def test_disk_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    guest = GuestFiles(tmp_path / "vmlinuz", tmp_path / "initrd")
    guest.kernel.touch()
    guest.initrd.touch()

    async def boot() -> None:
        with pytest.raises(VmError, match=r"/none: no disk image there that may be read and written"):
            async with launch(VmConfig(guest, program="true", disks=(Path("/none"),))):
                raise AssertionError("it started")

    run(boot())


def test_a_share_is_a_device_and_without_one_there_is_none() -> None:
    with_share = plan(VmConfig(GUEST, share=Path("/s")))
    assert "vhost-user-fs-pci,chardev=share,tag=kataShared" in words_after(with_share, "-device")
    assert not any("fs-pci" in word for word in plan(VmConfig(GUEST)))


def test_free_root_ports_wait_for_what_is_plugged_later() -> None:
    ports = [
        word for word in words_after(plan(VmConfig(GUEST)), "-device") if word.startswith("pcie-root-port")
    ]
    assert len({word.split("slot=")[1] for word in ports}) == 4


def test_a_machine_without_kernel_or_program_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async def boot(config: VmConfig) -> None:
        async with launch(config):
            pass

    with pytest.raises(VmError, match="no-such-qemu: not found; install the package qemu-system-x86"):
        run(boot(VmConfig(GUEST, program="no-such-qemu")))
    with pytest.raises(VmError, match=r"/g/vmlinuz: no guest there; build one with `kata-image build`"):
        run(boot(VmConfig(GUEST, program="true")))


def test_each_virtiofsd_gets_its_own_spelling() -> None:
    rust = virtiofs.plan_virtiofsd(Path("/v"), "--shared-dir <DIR>", 5, Path("/s"), root=True)
    assert rust[1:5] == ["--fd=5", "--shared-dir", "/s", "--cache"]
    assert rust[-2:] == ["--sandbox", "namespace"]
    assert virtiofs.plan_virtiofsd(Path("/v"), "--shared-dir", 5, Path("/s"), root=False)[-1] == "none"
    in_c = virtiofs.plan_virtiofsd(Path("/v"), "-o cache=<mode>", 5, Path("/s"), root=True)
    assert in_c[1:4] == ["--fd=5", "-o", "source=/s"]
    with pytest.raises(VmError, match="runs as root only"):
        virtiofs.plan_virtiofsd(Path("/v"), "-o cache=<mode>", 5, Path("/s"), root=False)


def test_a_virtiofsd_that_does_not_run_here_is_passed_over(tmp_path: Path) -> None:
    broken, good = tmp_path / "broken", tmp_path / "good"
    broken.write_text("#!/bin/sh\necho GLIBC_2.39 not found >&2; exit 1\n")
    good.write_text("#!/bin/sh\necho --shared-dir\n")
    for program in (broken, good):
        program.chmod(0o755)
    assert virtiofs.find_virtiofsd((tmp_path / "absent", broken, good)) == (good, "--shared-dir\n")
    with pytest.raises(VmError, match=r"GLIBC_2\.39 not found.*install qemu-system-common"):
        virtiofs.find_virtiofsd((broken,))


def test_a_host_without_vhost_vsock_reserves_nothing_and_needs_the_program(tmp_path: Path) -> None:
    assert reserve_cid(str(tmp_path / "no-device")) is None
    (tmp_path / "no-ioctl").touch()
    before = set(os.listdir("/proc/self/fd"))
    assert reserve_cid(str(tmp_path / "no-ioctl")) is None
    assert set(os.listdir("/proc/self/fd")) == before

    async def open_one() -> None:
        async with open_vsock(tmp_path, tmp_path / "vhost-device-vsock"):
            pass

    if reserve_cid() is None:
        with pytest.raises(VmError, match=r"no working /dev/vhost-vsock and there is no .*kata-image build"):
            run(open_one())


def test_the_answer_about_kvm_is_kept_for_this_boot_program_and_kernel(tmp_path: Path) -> None:
    cache = tmp_path / "accelerator.json"
    cache.write_text('{"key": "k", "name": "kvm", "reason": "tried"}')
    assert accel._read_cache(cache, "k") == Accelerator("kvm", "tried")
    assert accel._read_cache(cache, "other") is None
    cache.write_text("not json")
    assert accel._read_cache(cache, "k") is None
    assert accel._read_cache(tmp_path / "absent", "k") is None


def test_kvm_that_boots_no_kernel_is_told_by_the_vmms_own_words(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\necho 'failed to set MSR' >&2; exit 1\n")
    program.chmod(0o755)
    answer = run(accel._try_kvm(str(program), tmp_path / "vmlinuz", tmp_path))
    assert answer == Accelerator("tcg", "no guest starts under KVM: failed to set MSR")
    program.write_text(
        "#!/bin/sh\nfor word; do case $word in file:*)"
        ' echo "Kernel panic - not syncing: VFS: x" > ${word#file:};; esac; done\n'
    )
    assert run(accel._try_kvm(str(program), tmp_path / "vmlinuz", tmp_path)).name == "kvm"
    assert [path.name for path in tmp_path.iterdir()] == ["qemu"]


def test_a_folder_belongs_to_one_machine_until_it_ends(tmp_path: Path) -> None:
    root = tmp_path / "vms"
    with state.open_state("one", root) as first:
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
        first.describe({"name": "one"})
        assert state.list_descriptions(root) == [{"name": "one", "running": True}]
        with pytest.raises(state.StateError, match="a machine named 'one' is running"):
            state.open_state("one", root)
    assert state.list_descriptions(root) == []
    assert not (root / "one").exists()


def test_a_folder_whose_owner_died_is_stale_and_swept_at_the_next_start(tmp_path: Path) -> None:
    root = tmp_path / "vms"
    root.mkdir(mode=0o700)
    (root / "dead").mkdir()
    (root / "dead" / "lock").touch()
    (root / "dead" / "vm.json").write_text('{"name": "dead"}')
    assert state.list_descriptions(root) == [{"name": "dead", "running": False}]
    with state.open_state(None, root):
        assert not (root / "dead").exists()


def test_a_lock_held_by_somebody_else_is_seen(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    assert not state.is_owned(tmp_path)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert state.is_owned(tmp_path)
    os.close(fd)


@pytest.mark.parametrize("name", ["../x", "", "a" * 33, "-x", "a/b", ".hidden"])
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(state.StateError, match="a machine's name is"):
            state.open_state(name, tmp_path / "vms")


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "vms"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(state.StateError, match="must be a folder of yours that nobody else may write"):
        state.open_state("x", root)


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(state.StateError, match="too long for unix sockets"):
        state.open_state("x", tmp_path / ("d" * 90))


def test_where_machines_live() -> None:
    assert state.find_state_root({"KATA_VM_DIR": "/a"}) == Path("/a")
    if os.geteuid() == 0:
        assert state.find_state_root({}) == Path("/run/kata-guest")


CONSOLE = """\x1bc\x1b[?7l\x1b[2JSeaBIOS
[    1.0] something
[    1.8] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
[    1.9] CPU: 0 UID: 0
[    1.9] Hardware name: QEMU
[    1.9] Call Trace:
[    1.9]  many
[    1.9]  more
"""


def test_a_panic_is_found_and_shown_with_what_came_before(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.write_text(CONSOLE)
    assert find_panic(console) == "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"
    shown = read_console(console)
    assert "SeaBIOS\n[    1.0] something" in shown
    assert "\x1b" not in shown
    assert "more" not in shown
    assert find_panic(tmp_path / "absent") is None
    assert read_console(tmp_path / "absent") == ""


@pytest.mark.parametrize(
    "line",
    [
        "[  1.0] WARNING: CPU: 1 PID: 7 at mm/page_alloc.c:1 x+0x1",
        "[  1.0] BUG: kernel NULL pointer dereference",
        "[  1.0] Oops: 0000 [#1] PREEMPT",
        "[  9.0] rcu: INFO: rcu_preempt detected stalls on CPUs",
        "[  9.0] Out of memory: Killed process 7 (x)",
    ],
)
def test_a_kernels_complaint_is_trouble(line: str) -> None:
    assert find_trouble(f"all well\n{line}\n") == [line]
    assert find_trouble("Spectre V2 : WARNING: Unprivileged eBPF is enabled\nDEBUG: fine") == []


def test_a_machine_without_vsock_has_two_named_ports_in_its_folder() -> None:
    config = VmConfig(GUEST, channel="serial", savable=True)
    command = plan_command(config, TCG, (), Path("/run/vm"), 7, "serial:kata.doorbell.0")
    ports = [word for word in words_after(command, "-device") if word.startswith("virtserialport")]
    assert [word.split("name=")[1].split(",")[0] for word in ports] == ["agent.channel.0", "kata.doorbell.0"]
    sockets = [word for word in words_after(command, "-chardev") if "server=on" in word]
    assert sockets == [
        f"socket,id={name},path=/run/vm/{name}.sock,server=on,wait=off" for name in ("channel", "bell")
    ]
    (words,) = words_after(command, "-append")
    assert {"kata.channel=agent.channel.0", "kata.doorbell=serial:kata.doorbell.0"} <= set(words.split())
    assert not any("vhost" in word for word in command)


def test_a_host_has_a_vsock_by_its_kernel_or_by_the_program(tmp_path: Path) -> None:
    program = tmp_path / "vhost-device-vsock"
    assert has_vsock(program) == (reserve_cid() is not None)
    program.touch(0o755)
    assert has_vsock(program)


def test_a_port_rings_line_after_line_on_one_connection() -> None:
    async def ring() -> list[str]:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        with ours, theirs:
            theirs.sendall(b"pid1 up 1\nagent re")
            theirs.sendall(b"ady 2\n" + b"x" * 5000 + b"\nagent ready 3\n")
            theirs.shutdown(socket.SHUT_WR)
            return [line async for line in iterate_rings(ours)]

    first, second, long, last = asyncio.run(ring())
    assert (first, second, last) == ("pid1 up 1", "agent ready 2", "agent ready 3")
    assert len(long) < 2000


def test_the_doorbell_gives_whole_lines_and_passes_over_silent_callers(tmp_path: Path) -> None:
    path = str(tmp_path / "bell")

    async def ring() -> list[str]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(0)
            for data in (b"", b"pid1 up 1\nmore", b"x" * 4096, b"agent ready 2\n"):
                with socket.socket(socket.AF_UNIX) as caller:
                    caller.connect(path)
                    caller.sendall(data)
            lines = []
            async for line in iterate_rings(listener):
                lines.append(line)
                if line.startswith("agent ready"):
                    return lines
        return []

    assert run(ring()) == ["pid1 up 1", "x" * 512, "agent ready 2"]


def test_waiting_for_a_path_ends_when_it_appears(tmp_path: Path) -> None:
    async def wait() -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait_exists(tmp_path / "socket"))
            (tmp_path / "other").touch()
            await asyncio.sleep(0)
            (tmp_path / "socket").touch()
            await waiting
        await wait_exists(tmp_path / "socket")  # there already

    run(wait())


def test_a_configuration_survives_the_way_to_its_keeper() -> None:
    config = VmConfig(GUEST, name="n", share=Path("/s"), kernel_args=("a=b",), accelerator=TCG)
    assert load_config(dump_config(config)) == config
    assert load_config(dump_config(VmConfig(GUEST))) == VmConfig(GUEST)


def test_the_time_line_has_the_kernels_start_worked_out_from_the_guests_clock() -> None:
    timeline = Timeline()
    timeline.stamps = [
        Stamp("qemu started", 0.1),
        Stamp("pid1 up", 4.0, "3000000000"),
        Stamp("agent ready", 5.5, "4400000000 x"),
    ]
    rows = plan_rows(timeline)
    assert [(row["event"], row["host_s"], row["guest_s"]) for row in rows] == [
        ("qemu started", 0.1, None),
        ("kernel started", 1.0, 0.0),
        ("pid1 up", 4.0, 3.0),
        ("agent ready", 5.5, 4.4),
    ]
    assert format_table(rows).splitlines()[3].split() == ["pid1", "up", "4.000", "3.000", "3.000"]


def test_the_guest_is_found_by_option_then_variable_then_checkout(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("vmlinuz", "initrd.img"):
            (tmp_path / name / file).touch()
    environ = {"KATA_GUEST_DIR": str(tmp_path / "b")}
    assert guest.find_guest(str(tmp_path / "a"), environ).kernel == tmp_path / "a" / "vmlinuz"
    assert guest.find_guest(None, environ).kernel == tmp_path / "b" / "vmlinuz"
    with pytest.raises(
        VmError, match=r"no guest .* in /nowhere; build one with `kata-image build` or `scripts/run`"
    ):
        guest.find_guest("/nowhere", {})


def test_every_later_ring_is_taken_so_that_the_backlog_never_fills(tmp_path: Path) -> None:
    async def ring(number: int) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(0)
            await loop.sock_connect(caller, str(tmp_path / "bell"))
            await loop.sock_sendall(caller, b"agent ready %d\n" % number)
            return await loop.sock_recv(caller, 1)

    async def body() -> None:
        with socket.socket(socket.AF_UNIX) as bell:
            bell.bind(str(tmp_path / "bell"))
            bell.listen(1)
            bell.settimeout(0)
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                answering = group.create_task(answer_rings(bell))
                assert [await ring(number) for number in range(20)] == [b""] * 20
                answering.cancel()

    run(body())
