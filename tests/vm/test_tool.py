"""The tool as people and scripts use it: what `run` passes through, and that nothing is left however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import termios
import tty
from pathlib import Path
from typing import IO

import pytest

from kata_host.vm.watch import wait_exists
from kata_testing.guest import TOOL, Guest, find_processes, run_tool

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

END_TIMEOUT_S = 120


def start_run(vm_dir: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start `run` and return when its container has said `ready`."""
    tool = subprocess.Popen(
        [TOOL, "run", "--", *command],
        env={**os.environ, "KATA_VM_DIR": str(vm_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert tool.stdout is not None
    line = tool.stdout.readline()
    if line != b"ready\n":
        _, errors = tool.communicate(timeout=END_TIMEOUT_S)
        raise AssertionError(f"the container said {line!r}, the tool {errors!r}")
    return tool


def assert_nothing_left(vm_dir: Path) -> None:
    assert find_processes(str(vm_dir)) == []
    assert [path.name for path in vm_dir.iterdir() if path.is_dir()] == []


@pytest.fixture
def vm_dir(short_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="t", dir=short_folder))


def test_run_passes_streams_and_status_through_and_leaves_nothing(vm_dir: Path) -> None:
    script = "cat; echo err >&2; exit 7"
    done = run_tool("run", "--json", "--", "sh", "-c", script, vm_dir=vm_dir, input=b"in\n")
    errors, report = done.stderr.decode().strip().rsplit("\n", 1)
    assert (done.returncode, done.stdout, errors) == (7, b"in\n", "err")
    events = [row["event"] for row in json.loads(report)["timeline"]]
    order = [
        "kernel started",
        "pid1 up",
        "agent ready",
        "first check",
        "sandbox created",
        "container created",
    ]
    assert [event for event in events if event in order] == order
    assert_nothing_left(vm_dir)


def test_a_command_that_is_not_there_ends_with_127_and_names_it(vm_dir: Path) -> None:
    done = run_tool("run", "--", "no-such-program", vm_dir=vm_dir)
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr
    assert b"ENOENT" in done.stderr
    assert_nothing_left(vm_dir)


def test_a_file_that_is_no_program_ends_with_126(vm_dir: Path) -> None:
    done = run_tool("run", "--", "/etc/passwd", vm_dir=vm_dir)
    assert done.returncode == 126
    assert b"/etc/passwd" in done.stderr


def test_ctrl_c_goes_to_the_command(vm_dir: Path) -> None:
    tool = start_run(
        vm_dir, "sh", "-c", "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    )
    tool.send_signal(signal.SIGINT)
    output, _ = tool.communicate(timeout=END_TIMEOUT_S)
    assert (tool.returncode, output) == (3, b"caught\n")
    assert_nothing_left(vm_dir)


def test_a_second_ctrl_c_ends_everything(vm_dir: Path) -> None:
    tool = start_run(vm_dir, "sh", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done")
    tool.send_signal(signal.SIGINT)
    assert tool.stdout is not None
    assert tool.stdout.readline() == b"caught\n"
    tool.send_signal(signal.SIGINT)
    tool.communicate(timeout=END_TIMEOUT_S)
    assert tool.returncode == 128 + signal.SIGINT
    assert_nothing_left(vm_dir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_boots_ends_everything(vm_dir: Path, number: signal.Signals) -> None:
    env = {**os.environ, "KATA_VM_DIR": str(vm_dir)}
    tool = subprocess.Popen([TOOL, "run", "--", "true"], env=env, stderr=subprocess.PIPE, process_group=0)
    asyncio.run(asyncio.wait_for(wait_exists(vm_dir / ".lock"), END_TIMEOUT_S))  # noqa: TID251 - no loop to be in
    tool.send_signal(number)
    _, errors = tool.communicate(timeout=END_TIMEOUT_S)
    assert (tool.returncode, errors) == (128 + number, b"")
    assert_nothing_left(vm_dir)


def test_the_tool_killed_with_sigkill_takes_everything_along(vm_dir: Path) -> None:
    tool = start_run(vm_dir, "sh", "-c", "echo ready; sleep 1000")
    alive = [
        os.pidfd_open(int(entry.name))
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != tool.pid and str(vm_dir) in _read_command(entry)
    ]
    assert len(alive) >= 2, "QEMU and vhost-device-vsock are not to be seen"
    tool.kill()
    tool.communicate(timeout=END_TIMEOUT_S)
    for pidfd in alive:
        assert select.select([pidfd], [], [], END_TIMEOUT_S)[0], "a process outlived the tool"
        os.close(pidfd)
    listed = json.loads(run_tool("vm", "list", "--json", vm_dir=vm_dir).stdout)
    assert [each["running"] for each in listed] == [False]


def _read_command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_a_kernel_that_panics_is_told_with_its_own_words(vm_dir: Path) -> None:
    done = run_tool("run", "--kernel-arg", "rdinit=/nowhere", "--", "true", vm_dir=vm_dir)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith(
        "kata-agent-ctl: error: the guest did not boot: Kernel panic - not syncing: VFS"
    ), text
    assert "the console's last lines were:" in text
    assert_nothing_left(vm_dir)


def test_an_agent_that_is_not_ready_in_time_is_told_and_ended(vm_dir: Path) -> None:
    done = run_tool("run", "--timeout", "0.5", "--", "true", vm_dir=vm_dir)
    assert done.returncode == 1
    # How far it comes in that time is the machine's matter.
    seen = "accelerator chosen|qemu started|qemu answers|pid1 up"
    told = done.stderr.decode()
    assert re.search(rf"the agent was not ready within 0\.5 s \(last seen: ({seen}), ", told), told
    assert_nothing_left(vm_dir)


def test_a_machine_that_ends_under_a_command_is_told(vm_dir: Path) -> None:
    tool = start_run(vm_dir, "sh", "-c", "echo ready; sleep 1000")
    (folder,) = (path for path in vm_dir.iterdir() if path.is_dir())
    with socket.socket(socket.AF_UNIX) as qmp:
        qmp.connect(str(folder / "qmp.sock"))
        qmp.sendall(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
        _, errors = tool.communicate(timeout=END_TIMEOUT_S)
    assert tool.returncode == 1
    assert errors.startswith(b"kata-agent-ctl: error: the guest ended while it was used: ")
    assert_nothing_left(vm_dir)


@pytest.mark.parametrize("helper", ["virtiofsd", "vhost-device-vsock"])
def test_a_machine_whose_helper_died_is_ended_and_told(vm_dir: Path, helper: str) -> None:
    tool = start_run(vm_dir, "sh", "-c", "echo ready; sleep 1000; ls /")
    children = Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
    found = [
        int(pid) for pid in children if helper in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    ]
    if not found:
        pytest.skip(f"this host needs no {helper}")
    os.kill(found[0], signal.SIGKILL)
    _, errors = tool.communicate(timeout=END_TIMEOUT_S)
    assert tool.returncode == 1
    assert f"the guest ended while it was used: {helper} was killed by SIGKILL" in errors.decode()
    assert_nothing_left(vm_dir)


def test_list_shows_a_machine_that_stays(guest: Guest) -> None:
    listed = json.loads(run_tool("vm", "list", "--json", vm_dir=guest.vm_dir).stdout)
    assert [(each["name"], each["running"], each["address"]) for each in listed] == [
        ("shared", True, guest.address)
    ]


def test_a_name_in_use_is_refused_with_what_to_do(guest: Guest) -> None:
    done = run_tool("vm", "start", "--name", "shared", vm_dir=guest.vm_dir)
    assert done.returncode == 1
    assert b"a machine named 'shared' is running; stop it with: kata-agent-ctl vm stop shared" in done.stderr


def test_connect_speaks_to_the_guest_through_the_hybrid_socket(guest: Guest) -> None:
    path = guest.address.removeprefix("hvsock://").rpartition(":")[0]
    where = ("connect", "--server-address", f"unix://{path}", "--hybrid-vsock", "--output", "json")
    done = run_tool(*where, "-c", "Check", "Version", vm_dir=guest.vm_dir)
    assert done.returncode == 0, done.stderr
    check, version = map(json.loads, done.stdout.splitlines())
    assert check == {"status": "SERVING"}
    assert version["agent_version"]


def test_a_terminal_goes_through_with_its_size_and_its_keys(vm_dir: Path) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    termios.tcsetwinsize(ours, (30, 90))
    script = "trap 'stty size' WINCH; trap 'exit 6' INT; stty size; echo ready; while :; do sleep 0.1; done"
    tool = subprocess.Popen(
        [TOOL, "run", "--tty", "--", "sh", "-c", script],
        env={**os.environ, "KATA_VM_DIR": str(vm_dir)},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(theirs)
    with open(ours, "r+b", buffering=0) as terminal:
        assert read_until(terminal, b"ready\r\n") == b"30 90\r\nready\r\n"
        termios.tcsetwinsize(ours, (40, 120))
        tool.send_signal(signal.SIGWINCH)
        assert read_until(terminal, b"120\r\n") == b"40 120\r\n"
        terminal.write(b"\x03")
        _, errors = tool.communicate(timeout=END_TIMEOUT_S)
    assert (tool.returncode, errors) == (6, b"")
    assert_nothing_left(vm_dir)


def read_until(terminal: IO[bytes], end: bytes) -> bytes:
    output = b""
    while not output.endswith(end):
        assert select.select([terminal], [], [], END_TIMEOUT_S)[0], f"only {output!r} in time"
        output += terminal.read(4096)
    return output
