"""Starts the process that keeps a machine, and shows the machine that it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from kata_host.cli.errors import CliError
from kata_host.cli.stdio import read_ready
from kata_host.vm.keeper import Order, dump_order
from kata_host.vm.state import find_state_root, make_private

END_TIMEOUT_S = 15.0
KEEPER_LOG = "keeper.log"
_REPORT_BYTES = 65536
_SHOWN = ("name", "address", "console", "qmp")


async def start_keeper(order: Order) -> dict[str, Any]:
    """Hand the order to a keeper and wait for its word: the machine's description. Raises `CliError`, OSError."""
    log_path = make_private(find_state_root()) / KEEPER_LOG
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    keeper = subprocess.Popen(  # noqa: ASYNC220 - milliseconds, and no thread may be its parent
        [sys.executable, "-m", "kata_host.vm.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        cwd="/",
    )
    os.close(log)
    assert keeper.stdin is not None and keeper.stdout is not None  # noqa: S101, PT018 - asked for above
    with keeper.stdout:
        with keeper.stdin:
            keeper.stdin.write(dump_order(order).encode())
        try:
            text = await _read_report(keeper.stdout.fileno())
        except BaseException:
            keeper.terminate()
            keeper.wait(END_TIMEOUT_S)
            raise
    answer: dict[str, Any] = (
        json.loads(text) if text else {"error": f"the machine's keeper ended without a word; see {log_path}"}
    )
    if "error" in answer:
        keeper.wait(END_TIMEOUT_S)
        raise CliError(str(answer["error"]))
    keeper.returncode = 0  # it stays; nobody here waits for it
    return answer


def show_machine(description: dict[str, Any], *, as_json: bool) -> None:
    """Print it: all as JSON, or what people need."""
    if as_json:
        print(json.dumps(description))
        return
    for key in _SHOWN:
        print(f"{key:<8} {description[key]}")


async def _read_report(fd: int) -> bytes:
    text = b""
    while not text.endswith(b"\n") and len(text) < _REPORT_BYTES:
        piece = await read_ready(fd, _REPORT_BYTES)
        if not piece:
            break
        text += piece
    return text
