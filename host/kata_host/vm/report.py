"""Lines of JSON between the process that keeps a machine and whoever started it, over pipes.

A keeper's report is the machine's description, or `{"error": TEXT}`. Must not know: what is in a description.
"""

from __future__ import annotations

import asyncio
import json
import os

from kata_host.vm.base import VmError

LIMIT_BYTES = 65536


async def read_line(fd: int) -> bytes:
    """The next line with its end; less at the end of what comes, or when it is longer than any line should be."""
    loop = asyncio.get_running_loop()
    text = b""
    while not text.endswith(b"\n") and len(text) < LIMIT_BYTES:
        ready = asyncio.Event()
        loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(fd)
        piece = os.read(fd, LIMIT_BYTES)
        if not piece:
            break
        text += piece
    return text


async def read_report(fd: int, otherwise: str) -> dict[str, object]:
    """A keeper's report. VmError: its error, or `otherwise` when it ended without a word."""
    text = await read_line(fd)
    try:
        report = json.loads(text)
    except ValueError:
        raise VmError(otherwise) from None
    if "error" in report:
        raise VmError(str(report["error"]))
    return dict(report)


def write_report(report: dict[str, object], fd: int = 1) -> None:
    """Say it; that nobody listens any more is no error."""
    try:
        os.write(fd, json.dumps(report).encode() + b"\n")
    except BrokenPipeError:
        return
