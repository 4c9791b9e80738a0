"""The kernel's messages in the agent's log."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator

import pytest

from kata_agent.kernel_log import KernelLog, pass_record
from kata_agent.log import Log
from kata_testing.wire import run_async


@pytest.fixture
def lines() -> Iterator[tuple[Log, list[bytes]]]:
    reader, writer = os.pipe()
    log, found = Log(writer, "debug"), list[bytes]()
    log.attach(found.append)
    yield log, found
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("record", "level", "message", "uptime"),
    [
        (b"6,339,5140900,-;NET: Registered\n", "INFO", "NET: Registered", "5.140900"),
        (b"0,1,7,-;panic\n SUBSYSTEM=pci\n", "CRIT", "panic", "0.000007"),
        (b"3,1,1000000,-,caller=T1;bad; thing\n", "ERRO", "bad; thing", "1.000000"),
        (b"4,1,0,c;\xff\n", "WARN", "\\xff", "0.000000"),
        (b"7,1,0,-;fine\n", "DEBG", "fine", "0.000000"),
    ],
)
def test_record_keeps_its_severity_and_text(
    record: bytes, level: str, message: str, uptime: str, lines: tuple[Log, list[bytes]]
) -> None:
    pass_record(record, lines[0])
    (line,) = map(json.loads, lines[1])
    assert (line["level"], line["msg"], line["uptime"], line["subsystem"]) == (
        level,
        message,
        uptime,
        "kernel",
    )


def test_records_of_programs_do_not_pass_and_nonsense_is_told(lines: tuple[Log, list[bytes]]) -> None:
    pass_record(b"30,1,0,-;kata-init: ours\n", lines[0])
    assert lines[1] == []
    pass_record(b"nonsense", lines[0])
    assert "not understood" in json.loads(lines[1][0])["msg"]


def test_open_log_is_followed_until_it_ends(lines: tuple[Log, list[bytes]]) -> None:
    reader, writer = os.pipe()

    async def follow() -> None:
        heard = asyncio.Event()
        lines[0].attach(lambda _: heard.set())
        passing = KernelLog(lines[0], f"/proc/self/fd/{reader}")
        os.close(reader)
        os.write(writer, b"6,1,0,-;one\n")
        await heard.wait()
        heard.clear()
        os.close(writer)
        await heard.wait()
        passing.close()

    run_async(follow())
    assert [json.loads(line)["msg"] for line in lines[1]] == ["one", "the kernel's messages end here"]
