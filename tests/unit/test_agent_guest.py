"""The guest's details, hooks, name servers and modules: what is read and what is said."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from kata_agent.errors import AgentError, InvalidRequest, TimedOut
from kata_agent.guest import clock, details, dns, hook, module, random
from kata_agent.mounts.storage.driver import DRIVERS
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_agent.sandbox import KernelModule, SandboxRequest, check
from kata_init.exits import Exit, reap
from kata_testing.wire import run_async


def test_block_size_is_hexadecimal() -> None:
    assert details.parse_block_size("10000000\n") == 268435456


@pytest.mark.parametrize("text", ["", " \n", "-1", "+1", "0x10", "text"])
def test_block_size_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(AgentError, match="Invalid block size"):
        details.parse_block_size(text)


def test_details_are_read_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "block_size_bytes").write_text("80\n")
    (tmp_path / "probe").touch()
    asked = details.read_details(memory=True, probe=True, memory_directory=str(tmp_path))
    assert (asked.memory_block_bytes, asked.has_memory_probe) == (128, True)
    unasked = details.read_details(memory=False, probe=False, memory_directory=str(tmp_path))
    assert (unasked.memory_block_bytes, unasked.has_memory_probe) == (0, False)
    assert unasked.storage_handlers == tuple(sorted(DRIVERS))
    assert unasked.supports_seccomp


def test_machine_without_memory_files_has_size_zero_and_no_probe(tmp_path: Path) -> None:
    found = details.read_details(memory=True, probe=True, memory_directory=str(tmp_path))
    assert (found.memory_block_bytes, found.has_memory_probe) == (0, False)


def test_name_servers_are_trimmed_and_joined_without_a_final_newline() -> None:
    assert dns.render(["nameserver 1.1.1.1 ", " search x"]) == "nameserver 1.1.1.1\nsearch x"


def test_guest_without_a_resolver_file_gets_none(tmp_path: Path) -> None:
    dns.install(["nameserver 1.1.1.1"], str(tmp_path / "s"), str(tmp_path / "absent"))
    dns.remove(str(tmp_path / "s"), str(tmp_path / "absent"))
    assert not (tmp_path / "s").exists()


def test_directory_in_place_of_the_resolver_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        dns.install(["nameserver 1.1.1.1"], str(tmp_path / "s"), str(tmp_path))


def test_hooks_are_the_programs_in_the_folders_that_exist(tmp_path: Path) -> None:
    folder = tmp_path / "prestart"
    folder.mkdir()
    (tmp_path / "poststop").mkdir()
    for name, mode in (("b", 0o755), ("a", 0o711), ("plain", 0o644)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    (folder / "link").symlink_to("a")
    (folder / "dir").mkdir()
    assert hook.scan(str(tmp_path)) == {
        "prestart": [
            {"path": f"{folder}/a", "args": ["a", "prestart"]},
            {"path": f"{folder}/b", "args": ["b", "prestart"]},
        ],
        "poststop": [],
    }


def test_hook_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert hook.scan(str(tmp_path / "absent")) == {}


def test_failure_of_modprobe_is_told_with_code_and_what_it_said() -> None:
    with pytest.raises(
        AgentError, match=r"load_kernel_module fuse: .*code 1, stdout: 'o', stderr: 'not found'"
    ):
        module.check_exit("fuse", Exit(1, 1, 1, None, 0), "o", "not found")
    with pytest.raises(AgentError, match="killed by signal 9"):
        module.check_exit("fuse", Exit(1, 1, None, 9, 0), "", "")
    module.check_exit("fuse", Exit(1, 1, 0, None, 0), "", "")


def test_modprobe_past_its_deadline_is_killed_and_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.01)
    monkeypatch.setattr(module, "KILL_DEADLINE_S", 60.0)
    program = tmp_path / "modprobe"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)

    async def body() -> None:
        book = ExitBook()
        attach_reaper(book, reap)
        with pytest.raises(TimedOut, match=r"^modprobe fuse: not done in 0 s, killed$"):
            await module.load(book, "fuse", (), str(program))
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    run_async(body())


def test_module_without_a_name_is_refused_before_anything_is_done() -> None:
    with pytest.raises(InvalidRequest, match="the name is empty"):
        check(SandboxRequest(kernel_modules=(KernelModule("ok"), KernelModule(""))))


def test_reseed_without_data_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no data"):
        random.reseed(b"")


def test_time_with_too_many_microseconds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="microseconds"):
        clock.set_time(0, 1_000_000)


def test_time_beyond_what_the_kernel_holds_is_an_os_error() -> None:
    with pytest.raises(OSError, match="clock_settime"):
        clock.set_time(2**63 - 1, 0)
