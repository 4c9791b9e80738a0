"""The agent as a program on this machine: its command line, its socket, its end, and what it leaves alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from kata_agent.dispatch import AGENT, METHODS
from kata_policy.extension import find_extension
from kata_testing.native_agent import DEADLINE_S, CallError, command, start_agent

pytestmark = pytest.mark.requires("root")


def run(*arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrapper, *command(), *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_version_line_has_kata_s_form() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("kata-agent version 3.21.0 (api version: 0.0.1, commit version: 3.21.0-")
    features = '"agent-policy", "seccomp"' if find_extension() else '"seccomp"'
    assert done.stdout.endswith(f"type: python, extra-features: [{features}])\n")
    assert run("-v").stdout == done.stdout


def test_unknown_argument_is_told_with_the_usage() -> None:
    done = run("--nonsense")
    assert done.returncode == 2
    assert "cannot make sense of '--nonsense'" in done.stderr
    assert "usage: kata-agent" in done.stderr


@pytest.mark.requires("userns")
def test_without_root_it_says_what_root_is_for() -> None:
    done = run(wrapper=("unshare", "--user"))
    assert done.returncode == 1
    assert "needs root" in done.stderr


def test_check_and_version_are_answered(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        assert connection.call("Check", service="grpc.Health").status == 1
        assert connection.call("Version", service="grpc.Health").agent_version == "3.21.0"


def test_left_over_socket_file_is_replaced_and_removed_at_the_end(tmp_path: Path) -> None:
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(tmp_path / "agent.sock"))
    left_over.close()
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        connection.call("Check", service="grpc.Health")
    assert os.listdir(tmp_path) == []


def test_socket_that_another_agent_listens_on_is_not_taken(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        environment = {**os.environ, "KATA_AGENT_SERVER_ADDR": f"unix://{agent.path}"}
        done = subprocess.run(
            command(), env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 1
        assert (
            "another process listens there, end it or listen elsewhere: EADDRINUSE: Address already in use"
            in done.stderr
        )
        connection.call("Check", service="grpc.Health")


def test_a_plain_file_at_the_sockets_path_is_left_alone_and_told(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("somebody's")
    environment = {**os.environ, "KATA_AGENT_SERVER_ADDR": f"unix://{path}"}
    done = subprocess.run(
        command(), env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 1
    assert f"listen on unix://{path}: what is there is no socket and was left alone, remove it" in done.stderr
    assert path.read_text() == "somebody's"


@pytest.mark.parametrize("text", [None, "log_level = "], ids=["absent", "not TOML"])
def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "settings.toml"
    if text is not None:
        path.write_text(text)
    done = subprocess.run(
        [*command(), "-c", str(path)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 1
    where = ": " if text is None else " line 1, key log_level: "
    assert done.stderr.startswith(f"kata-agent: settings of {path}{where}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        connection.call("Check", service="grpc.Health")
        agent.process.send_signal(number)
        status, errors = agent.wait()
    assert status == 0
    assert errors == "kata-agent shutdown complete\n"


def test_destroy_is_answered_before_the_end(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        connection.call("CreateSandbox", sandbox_id="s")
        connection.call("DestroySandbox")
        status, errors = agent.wait()
    assert status == 0
    assert errors.endswith("kata-agent shutdown complete\n")


def test_nothing_it_mounts_is_seen_outside(tmp_path: Path) -> None:
    before = mounted(Path("/proc/self/mountinfo").read_text())
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        connection.call("CreateSandbox", sandbox_id="s", dns=["nameserver 192.0.2.1"])
        # others may mount and unmount meanwhile
        its = mounted(agent.mounts()) - before
        assert {"/run/kata-agent", "/run/sandbox-ns/uts"} <= {place for place, _, _ in its}
        assert its & mounted(Path("/proc/self/mountinfo").read_text()) == set()
        assert (agent.root / "sys/fs/cgroup/cgroup.controllers").exists()


def mounted(table: str) -> set[tuple[str, str, str]]:
    """Place, type and source of each line of a mountinfo."""
    halves = (line.split(" - ") for line in table.splitlines())
    return {(left.split()[4], right.split()[0], right.split()[1]) for left, right in halves}


def test_files_of_others_and_the_machine_s_names_stay_as_they_are(tmp_path: Path) -> None:
    base = Path("/run/kata-containers")
    theirs = base / f"of-others-{os.getpid()}"
    theirs.mkdir(parents=True)
    (theirs / "file").write_text("kept")
    resolver = Path("/etc/resolv.conf")
    seen = (socket.gethostname(), resolver.read_bytes() if resolver.exists() else None)
    try:
        with start_agent(tmp_path) as agent, agent.connect() as connection:
            connection.call("CreateSandbox", sandbox_id="s", hostname="guest", dns=["nameserver 192.0.2.1"])
            assert (theirs / "file").read_text() == "kept"
            assert (socket.gethostname(), resolver.read_bytes() if resolver.exists() else None) == seen
            connection.call("DestroySandbox")
        assert (theirs / "file").read_text() == "kept"
    finally:
        (theirs / "file").unlink()
        theirs.rmdir()


def test_what_is_not_built_and_what_does_not_exist_have_their_own_answers(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        for method in [name for name, module in METHODS[AGENT].items() if module is None]:
            with pytest.raises(CallError, match=f"NOT_FOUND: /grpc.AgentService/{method} is not supported"):
                connection.call(method)
        with pytest.raises(CallError, match="INTERNAL: Invalid container id"):
            connection.call("StartContainer", container_id="nobody")


def test_details_and_random_numbers_work_before_there_is_a_sandbox(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent, agent.connect() as connection:
        details = connection.call(
            "GetGuestDetails", mem_block_size=True, mem_hotplug_probe=True
        ).agent_details
        assert details.version == "3.21.0"
        assert not details.init_daemon
        assert list(details.device_handlers) == []
        connection.call("ReseedRandomDev", data=os.urandom(512))
        with pytest.raises(CallError, match="INTERNAL: reseed: no data"):
            connection.call("ReseedRandomDev", data=b"")
