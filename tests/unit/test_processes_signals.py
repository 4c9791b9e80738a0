"""Which signal a process gets, and to whom it goes."""

from __future__ import annotations

import os
import signal

import pytest

from kata_agent.processes.signals import choose_signal, is_handled, send_to_cgroup, send_to_process
from kata_linux import procfs


@pytest.mark.parametrize("field", ["SigBlk", "SigIgn", "SigCgt"])
def test_a_mask_of_any_kind_means_handled(field):
    status = {field: " 0000000000004000\t"}
    assert is_handled(signal.SIGTERM, status)
    assert choose_signal(signal.SIGTERM, status) == signal.SIGTERM


@pytest.mark.parametrize("mask", ["", "no hex", "0000000000000000"])
def test_a_mask_that_says_nothing_means_not_handled(mask):
    assert choose_signal(signal.SIGTERM, {"SigCgt": mask}) == signal.SIGKILL


@pytest.mark.parametrize("number", [0, 65])
def test_numbers_out_of_range_are_not_handled(number):
    assert not is_handled(number, {"SigCgt": "ffffffffffffffff"})


def test_only_sigterm_is_replaced():
    assert choose_signal(signal.SIGUSR1, {}) == signal.SIGUSR1


def test_a_process_that_is_gone_or_another_one_by_now_is_not_signalled():
    mine = procfs.read_start_time(os.getpid())
    send_to_process(os.getpid(), mine - 1, signal.SIGKILL)
    child = os.posix_spawn("/bin/true", ["true"], {})
    start_time = procfs.read_start_time(child)
    os.waitpid(child, 0)
    send_to_process(child, start_time, signal.SIGKILL)


def test_a_cgroup_is_signalled_below_too_and_sigkill_goes_by_its_file(tmp_path):
    child = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/cgroup.procs").write_text(f"{child}\n")
    send_to_cgroup(str(tmp_path), signal.SIGUSR1, except_pid=os.getpid())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR1
    (tmp_path / "cgroup.kill").write_text("")
    send_to_cgroup(str(tmp_path), signal.SIGKILL)
    assert (tmp_path / "cgroup.kill").read_text() == "1"


def test_a_cgroup_that_is_gone_is_fine(tmp_path):
    for number in (signal.SIGTERM, signal.SIGKILL):
        send_to_cgroup(str(tmp_path / "gone"), number)
