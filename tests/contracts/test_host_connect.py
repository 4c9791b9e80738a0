"""`connect` against a served agent: the notation end to end, exit statuses, output, and that calls arrive as meant."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_host.cli import stdio, target
from kata_host.cli.commands import connect as connect_command
from kata_host.cli.errors import CliError
from kata_host.cli.main import main
from kata_host.cli.program import build_parser
from kata_host.connect import connect
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.fake_host import run, serve_table

SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def refuse(_request: object) -> Any:
    raise StatusError(Code.INTERNAL, "no such thing")


ANSWERS = {"Check": lambda _: SERVING, "StartContainer": refuse}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.sock")


def drive(path: str, *words: str, address: str = "") -> tuple[int, list[tuple[str, Any]]]:
    """Run `connect` against a fake agent; its status, and what the agent was asked."""

    async def live() -> tuple[int, list[tuple[str, Any]]]:
        async with serve_table(path, ANSWERS) as asked:
            where = address or f"unix://{path}"
            options = build_parser().parse_args(["-l", "debug", "connect", "--server-address", where, *words])
            return await options.run(options), asked

    return run(live())  # type: ignore[no-any-return]


def names(asked: list[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in asked]


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "Check", "-c", "CreateSandbox", "-c", "GetGuestDetails"),
        ("-c", "Check", "CreateSandbox", "GetGuestDetails"),
        ("--cmd=Check", "-c", "CreateSandbox", "GetGuestDetails", "--timeout", "5s"),
        ("-n", "-c", "Check", "CreateSandbox", "--ignore-errors", "-c", "GetGuestDetails"),
    ],
)
def test_commands_may_be_written_in_every_way_that_scripts_use(path: str, words: tuple[str, ...]) -> None:
    status, asked = drive(path, *words)
    assert (status, names(asked)) == (0, ["Check", "CreateSandbox", "GetGuestDetails"])


def test_an_abstract_socket_is_reached_by_its_at_sign() -> None:
    name = f"\0kata-test-{id(object())}"
    status, asked = drive(name, "-c", "Check", address=f"unix://@{name[1:]}")
    assert (status, names(asked)) == (0, ["Check"])


def test_repeat_runs_the_next_command_and_no_other(path: str) -> None:
    _, asked = drive(path, "-c", "repeat 3", "Check", "CreateSandbox")
    assert names(asked) == ["Check"] * 3 + ["CreateSandbox"]


def test_the_first_failure_ends_the_run(path: str) -> None:
    with pytest.raises(CliError, match="StartContainer: INTERNAL: no such thing") as caught:
        drive(path, "-c", "StartContainer", "Check")
    assert caught.value.status == 1


def test_ignored_errors_are_told_and_the_run_goes_on(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, asked = drive(path, "--ignore-errors", "-c", "StartContainer", "Nonsense", "Check")
    assert (status, names(asked)) == (0, ["StartContainer", "Check"])
    assert 'Invalid command: "Nonsense"' in capsys.readouterr().err


@pytest.mark.parametrize("last", ["DestroySandbox", "quit"])
def test_a_destroyed_sandbox_and_quit_end_the_run(path: str, last: str) -> None:
    status, asked = drive(path, "-c", last, "Check")
    assert status == 0
    assert "Check" not in names(asked)


def test_ids_made_up_for_one_command_are_used_by_the_next(path: str) -> None:
    _, asked = drive(path, "-c", "PauseContainer", "ResumeContainer", "ReadStdout len=5")
    pause, resume, read = (request for _, request in asked)
    assert pause.container_id == resume.container_id == read.container_id == read.exec_id
    assert len(pause.container_id) == 64
    assert read.len == 5


def test_a_copied_file_arrives_piece_by_piece(path: str, tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"y" * ((1 << 20) + 1))
    document = json.dumps({"src": str(source), "dest": "/run/kata-containers/f"})
    _, asked = drive(path, "-c", f"CopyFile json://{document}")
    assert [(request.offset, len(request.data)) for _, request in asked] == [(0, 1 << 20), (1 << 20, 1)]


def test_records_are_json_lines_with_the_originals_keys(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(path, "-c", "Check")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["msg"] for record in records] == [
        "announce",
        "client setup complete",
        "Run command Check (1 of 1)",
        "sending request",
        "response received",
        "Command Check (1 of 1) returned (Ok(()), false)",
    ]
    assert records[4]["response"] == "status: SERVING"
    assert {"msg", "level", "ts", "version", "pid", "name", "source", "subsystem"} <= set(records[0])
    assert (records[3]["level"], records[0]["subsystem"]) == ("DEBG", "rpc")


def test_json_output_is_the_responses_alone(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    drive(path, "--output", "json", "-c", "Check", "Version")
    assert capsys.readouterr().out == '{"status": "SERVING"}\n{}\n'


def test_interactive_reads_lines_until_their_end(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: Iterator[bytes] = iter([b"Che", b"ck\n\n  \nCheck\n", b""])

    async def read(_fd: int, _limit: int) -> bytes:
        return next(pieces)

    monkeypatch.setattr(connect_command, "read_ready", read)
    status, asked = drive(path, "-i")
    assert (status, names(asked)) == (0, ["Check", "Check"])
    assert "Enter command: " in capsys.readouterr().out


def test_list_alone_needs_no_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "--server-address", "unix:///nowhere", "-c", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Built-in commands:" in lines
    assert "Agent API commands:" in lines
    assert "  Check (health service)" in lines
    assert "  AddSwap (agent service)" in lines


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("connect", "-c", "Check"), 2, "--server-address is missing"),
        (("connect", "--server-address", "unix:///x"), 2, "give commands with -c"),
        (
            ("connect", "--server-address", "unix:///no/x", "-c", "Check"),
            1,
            "connect to unix:///no/x: No such file",
        ),
        (("connect", "--server-address", "ftp://x", "-c", "Check"), 1, "ftp"),
        (("connect", "--server-address", "unix:///x", "--timeout", "5", "-c", "Check"), 1, "duration '5'"),
        (("connect", "--server-address", "unix:///x", "--vm", "qemu", "-c", "Check"), 1, "vm start"),
        (
            ("connect", "--server-address", "vsock://1:1", "--hybrid-vsock", "-c", "Check"),
            1,
            "--hybrid-vsock goes with",
        ),
        ((), 1, "need sub-command"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said(
    words: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_generated_ids_are_64_hexadecimal_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate-cid"]) == main(["generate-sid"]) == 0
    first, second = capsys.readouterr().out.split()
    assert first != second
    for each in (first, second):
        assert len(each) == 64
        assert set(each) <= set("0123456789abcdef")


def test_a_reconnecting_client_waits_through_the_agents_absence(path: str) -> None:
    """The wait is sent to an agent that dies without a word, and is answered by the next one on the same socket."""

    async def live() -> int:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as dying:
            dying.bind(path)
            dying.listen()
            dying.settimeout(0)
            client = await connect(f"unix://{path}", 5, reconnect=True)
            connection, _ = await loop.sock_accept(dying)
            waiting = asyncio.ensure_future(client.wait_process())  # noqa: TID251 - lives across both servers
            with connection:
                connection.settimeout(0)
                assert await loop.sock_recv(connection, 4096)
        async with serve_table(path, {"WaitProcess": lambda _: pb.WaitProcessResponse(status=5)}), client:
            return (await waiting).status

    assert run(live()) == 5


def test_a_files_end_and_a_pipes_end_are_read_as_empty(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")

    async def read() -> list[bytes]:
        with (tmp_path / "f").open("rb") as file:
            return [await stdio.read_ready(file.fileno(), 10), await stdio.read_ready(file.fileno(), 10)]

    assert run(read()) == [b"abc", b""]


def test_a_ctrl_c_while_the_program_is_loaded_ends_it_by_the_signal_without_a_trace() -> None:
    script = """
import os, signal, sys, types
program = types.ModuleType("kata_host.cli.program")
program.run = lambda argv: os.kill(os.getpid(), signal.SIGINT)  # as it would come in the middle of an import
import kata_host.cli
sys.modules["kata_host.cli.program"] = kata_host.cli.program = program
from kata_host.cli.main import main
main([])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_the_entry_point_loads_nothing_of_the_program_before_that_holds() -> None:
    script = "import sys, kata_host.cli.main; print(*(n for n in sys.modules if n.startswith('kata_')))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["kata_host", "kata_host.cli", "kata_host.cli.main"]


def test_a_vmms_socket_that_is_not_there_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connect_command, target):
        monkeypatch.setattr(module, "DIAL_TIMEOUT_S", 60.0)
    began = time.monotonic()
    assert main(["connect", "--server-address", f"hvsock://{tmp_path}/none:1024", "-c", "Check"]) == 1
    assert main(["ps", "--server-address", f"hvsock://{tmp_path}/none:1024"]) == 1
    assert time.monotonic() - began < 60.0, "it was waited for"
    assert capsys.readouterr().err.count("No such file or directory; is an agent running there?") == 2
