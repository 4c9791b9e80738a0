"""What is told when an iptables program is missing, fails, hangs or writes too much."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kata_agent.errors import AgentError, Exhausted, NotFound, TimedOut
from kata_agent.network import iptables
from kata_agent.processes.exits import ExitBook, attach_reaper
from kata_init import exits


def run(folder: Path, data: bytes = b"", *, v6: bool = False) -> bytes:
    async def life() -> bytes:
        book = ExitBook()
        attach_reaper(book, exits.reap)
        return await iptables.restore(book, data, v6=v6, folders=[str(folder)])

    return asyncio.run(life())


def program(folder: Path, script: str, name: str = "iptables-restore") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(NotFound, match="ip6tables-save: not in /a or /b; this guest's image has no iptables"):
        iptables.find_program("ip6tables-save", ["/a", "/b"])


def test_data_arrives_and_output_returns(tmp_path: Path) -> None:
    program(tmp_path, 'echo "$@"; cat', "ip6tables-restore")
    assert run(tmp_path, b"rules\n" * 50_000, v6=True) == b"--wait 5\n" + b"rules\n" * 50_000


def test_errors_are_the_program_s_words(tmp_path: Path) -> None:
    program(tmp_path, "echo out; echo line 2 failed >&2; exit 2")
    with pytest.raises(AgentError) as caught:
        run(tmp_path)
    assert str(caught.value) == f"{tmp_path}/iptables-restore --wait 5 failed: line 2 failed"


def test_a_signal_is_told(tmp_path: Path) -> None:
    program(tmp_path, "kill -9 $$")
    with pytest.raises(AgentError, match="failed: killed by signal 9"):
        run(tmp_path)


def test_a_program_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "DEADLINE_S", 0.2)
    program(tmp_path, f"echo $$ > {tmp_path}/pid; exec tail -f /dev/null")
    with pytest.raises(TimedOut, match="iptables-restore --wait 5: not done in 0 s, killed"):
        run(tmp_path)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_more_output_than_an_answer_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "OUTPUT_LIMIT_BYTES", 10)
    program(tmp_path, "echo 01234567890")
    with pytest.raises(Exhausted, match="wrote 12 bytes, an answer holds 10"):
        run(tmp_path)
