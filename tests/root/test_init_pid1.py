"""PID 1 as PID 1 of fresh namespaces on this machine: boot, hand-over, reaping, orderly and disorderly ends."""

from __future__ import annotations

import compileall
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import kata_init
import kata_linux
from kata_testing.init_runner import DEADLINE_S, Machine, Peer, start_machine

STORM = 800
"""Some 250 exits fill the channel's buffer."""
SMALL = 64
SMALL_LEDGER = (
    sys.executable,
    "-c",
    f"from kata_init.ledger import Ledger; Ledger.__init__.__defaults__ = ({SMALL},); import kata_init.__main__",
)
pytestmark = pytest.mark.requires("root")


def test_the_doorbell_rings_when_pid1_is_up_and_when_the_agent_is_ready(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        up, ready = machine.wait_ring(), machine.wait_ring()
        assert up.startswith("pid1 up ")
        assert ready.startswith("agent ready ")
        assert 0 < int(up.split()[-1]) < int(ready.split()[-1])


def test_the_agent_gets_a_session_its_words_and_no_descriptor_but_its_own(tmp_path: Path) -> None:
    with start_machine(tmp_path, "agent.log=debug") as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("hello")
            told = peer.expect("hello ")
        pid, session = told.split()[:2]
        assert session == f"sid={pid}"
        assert "'agent.log=debug'" in told
        # 0-2, the control socket, the listener, its own pipe, the client and the listing itself
        assert len(told.rpartition("fds=")[2].split(",")) == 9


def test_the_agent_is_told_the_time_line_in_order(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            steps = [pair.split("=") for pair in peer.expect("boot ").split()]
        assert [name for name, _ in steps] == ["pid1-start", "mounts", "pid1-up", "agent-forked"]
        stamps = [int(stamp) for _, stamp in steps]
        assert stamps == sorted(stamps)


def test_nothing_of_the_machine_is_touched(tmp_path: Path) -> None:
    before = (Path("/proc/self/mountinfo").read_text(), os.uname().nodename, sorted(os.listdir("/dev")))
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        mounts = Path(f"/proc/{machine.pid}/mounts").read_text()
        assert "tmpfs /run tmpfs" in mounts
        assert " /sys/fs/cgroup cgroup2 " in mounts
        machine.end()
    after = (Path("/proc/self/mountinfo").read_text(), os.uname().nodename, sorted(os.listdir("/dev")))
    assert after == before


def test_kill_9_of_the_agent_loses_no_descriptor_and_no_exit(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        first = machine.agent_pid()
        with machine.connect() as peer:
            peer.say("store pipe kept", "orphans 3 42")
            for _ in range(3):
                peer.expect("exit ")
        os.kill(first, signal.SIGKILL)
        assert machine.wait_ring().startswith("agent ready ")
        assert machine.agent_pid() != first
        with machine.connect() as peer:
            peer.say("read pipe")
            assert peer.expect("read ") == "pipe kept"
            assert peer.count("stored pipe 2") == 1
            assert [line.split()[3:] for line in peer.seen if line.startswith("exit ")] == [
                ["42", "None"]
            ] * 3
        assert "agent ended: signal 9; it is started again in 0 ms" in machine.log


def test_an_exit_while_there_is_no_agent_reaches_the_next_one(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        agent = machine.agent_pid()
        with machine.connect() as peer:
            peer.say("hold")
            held = peer.expect("held ")
            (outside,) = (pid for pid in machine.children() if pid != agent)
            os.kill(agent, signal.SIGKILL)
            os.kill(outside, signal.SIGKILL)
        assert machine.wait_ring().startswith("agent ready ")
        with machine.connect() as peer:
            assert peer.expect(f"exit {held} ").split()[1:] == ["None", "9"]


def test_the_agent_may_die_any_number_of_times_once_it_was_ready(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        for _ in range(20):
            agent = machine.agent_pid()
            with machine.connect() as peer:
                peer.say("hold")
                held = peer.expect("held ")
                (outside,) = (pid for pid in machine.children() if pid != agent)
                os.kill(outside, signal.SIGKILL)  # both deaths at once: neither may hide the other
                os.kill(agent, signal.SIGKILL)
            assert machine.wait_ring().startswith("agent ready ")
            with machine.connect() as peer:
                peer.expect(f"exit {held} ")
                boot = next(line for line in peer.seen if line.startswith("boot "))
                assert len(boot.split()) == 6, "the time line grows with each death"


def test_what_the_agent_sent_last_before_its_death_counts(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("store last words", "exit 1")
            assert machine.wait_ring().startswith("agent ready ")
        with machine.connect() as peer:
            peer.say("read last")
            assert peer.expect("read ") == "last words"


def test_a_forgotten_exit_and_a_discarded_descriptor_are_not_handed_over(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("store gone x", "store here y", "orphans 1 3")
            pid, start_time = peer.expect("exit ").split()[:2]
            peer.say("discard gone", f"forget {pid} {start_time}", "exit 1")
            assert machine.wait_ring().startswith("agent ready ")
        with machine.connect() as peer:
            peer.expect("synced")
            assert peer.count("stored here") == 1
            assert peer.count("stored gone") == 0
            assert peer.count("exit ") == 0


def test_a_client_that_dials_while_nobody_serves_waits(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as first:
            first.say("stall")
            first.expect("stalls")
            with machine.connect() as second:  # PID 1's socket takes the connection
                second.say("hello")
                os.kill(machine.agent_pid(), signal.SIGKILL)
                second.expect("hello ")


def test_of_a_thousand_orphans_none_is_lost_while_the_agent_does_not_read(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            # made before the agent reads anything again, and three times what the socket between the two can hold
            peer.say("orphans 1000 9")
            for _ in range(1000):
                peer.expect("exit ")
            processes = {tuple(line.split()[1:3]) for line in peer.seen if line.startswith("exit ")}
        assert len(processes) == 1000


def test_garbage_on_the_control_channel_is_told_and_survived(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("garbage", "orphans 1 5")
            peer.expect("exit ")
        assert "control channel: packet b'nonsense" in machine.log


def test_sigterm_ends_containers_first_and_their_exits_reach_the_agent(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("hold")
            held = peer.expect("held ")
            os.kill(machine.pid, signal.SIGTERM)
            assert peer.expect(f"exit {held} ").split()[1:] == ["None", "15"]
        assert machine.wait() == 0
        assert "ends because SIGTERM from process 0" in machine.log


def test_the_agent_may_ask_for_the_end(tmp_path: Path) -> None:
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("shutdown", "exit 0")
            assert machine.wait() == 0
        assert "ends because the agent asked for it" in machine.log
        assert "started again" not in machine.log


def test_an_agent_that_never_gets_ready_ends_the_machine_with_the_reason(tmp_path: Path) -> None:
    with start_machine(tmp_path, "kata.agent=kata_testing.fake_agent:fail") as machine:
        assert machine.wait() == 0
        assert machine.log.count("RuntimeError: this agent cannot start") == 10
        assert "the agent was started 10 times and never ready; at last it ended: exit code 70" in machine.log


def test_a_loop_of_deaths_under_a_load_of_exits_ends_with_the_reason_too(tmp_path: Path) -> None:
    with start_machine(tmp_path, "kata.agent=kata_testing.fake_agent:fail_under_load") as machine:
        assert machine.wait() == 0
        assert machine.log.count("agent ended: exit code 70; it is started again") == 9
        assert "the agent was started 10 times and never ready" in machine.log


def test_a_full_ledger_drops_the_oldest_and_tells_the_next_agent_how_many(tmp_path: Path) -> None:
    with start_machine(tmp_path, python=SMALL_LEDGER) as machine:
        machine.wait_ready()
        agent = machine.agent_pid()
        with machine.connect() as peer:
            storm = begin_storm(machine, peer)
            os.kill(agent, signal.SIGSTOP)
            release(storm)
            os.kill(agent, signal.SIGKILL)
        assert machine.wait_ring().startswith("agent ready ")
        with machine.connect() as peer:
            told = f"Lost(exits={STORM + 1 - SMALL})"
            peer.expect(told)
            assert peer.count("exit ") >= SMALL
        assert (
            f"exit ledger is full: {STORM + 1 - SMALL} of the oldest exits are dropped so far" in machine.log
        )


def begin_storm(machine: Machine, peer: Peer) -> int:
    """A process that will leave many exits to PID 1 at once, as the machine sees it."""
    agent = machine.agent_pid()
    peer.say(f"storm {STORM}")
    peer.expect("held ")
    (outside,) = (pid for pid in machine.children() if pid != agent)
    return outside


def release(storm: int) -> None:
    """Return when it has ended."""
    pidfd = os.pidfd_open(storm)
    try:
        os.kill(storm, signal.SIGUSR1)
        assert select.select([pidfd], [], [], DEADLINE_S)[0], "the storm does not end"
    finally:
        os.close(pidfd)


def test_the_last_resort_tells_the_reason_and_where_it_happened(tmp_path: Path) -> None:
    program = """
from kata_init.main import main

def life(journal, words):
    journal.open(words[0].partition("=")[2])
    raise RuntimeError("no life today")

main(life)
"""
    log = tmp_path / "kernel.log"
    log.touch()
    command = ["unshare", "--fork", "--pid", "--kill-child", sys.executable, "-c", program, f"kata.log={log}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    for told in (log.read_text(), done.stderr):
        assert "kata-init: PID 1 failed, switching off: RuntimeError: no life today" in told
        assert ":6 in life" in told


def test_a_bad_word_is_told_and_the_default_kept(tmp_path: Path) -> None:
    with start_machine(tmp_path, "kata.doorbell=0") as machine:
        machine.wait_ready()
        assert "command line: kata.doorbell: '0' is no port" in machine.log


def test_a_left_over_socket_file_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(os.fspath(tmp_path / "agent.sock"))
    stale.close()
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        with machine.connect() as peer:
            peer.say("hello")
            peer.expect("hello ")


def test_an_address_that_somebody_listens_on_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(tmp_path / "agent.sock"))
        other.listen()
        with start_machine(tmp_path) as machine:
            assert machine.wait_ring().startswith("pid1 up ")
            assert "nobody can connect: [Errno 98] listen: Address already in use" in machine.log


def test_it_refuses_to_be_anything_but_pid_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kata_init"], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert "kata-init is PID 1 of a virtual machine; here it would be process" in done.stderr


def test_memory_of_an_idle_pid_1_stays_small(tmp_path: Path) -> None:
    # as in the image; a compiler that has run in the process leaves some hundred KiB behind
    for package in (kata_init, kata_linux):
        assert compileall.compile_dir(Path(package.__file__).parent, quiet=1)
    with start_machine(tmp_path) as machine:
        machine.wait_ready()
        assert read_anonymous_kib(machine) < 6000


def read_anonymous_kib(machine: Machine) -> int:
    lines = Path(f"/proc/{machine.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
