"""Tables, times and ends of processes as people read them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import UTC, datetime

from kata_protocols.gen import sandbox_pb2 as pb


def format_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest entry; the last one is not padded."""
    texts = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headers) - 1)]
    lines = []
    for row in texts:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return "\n".join(lines)


def format_time(time_ns: int) -> str:
    """UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def format_size(size: int) -> str:
    """Bytes in KiB, MiB or GiB."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f}{unit}"
    return str(size)


def format_signal(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def parse_signal(text: str) -> int:
    """A number, `KILL` or `SIGKILL`. Raises ValueError."""
    if text.isdigit() and 1 <= int(text) <= 64:
        return int(text)
    try:
        return int(signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"])
    except KeyError:
        raise ValueError(f"{text!r} is no signal: use 1 to 64 or a name such as TERM") from None


def format_exit(end: pb.Exit) -> str:
    """`code 3`, `SIGKILL`, `SIGKILL (out of memory)`."""
    if end.WhichOneof("how") == "code":
        return f"code {end.code}"
    return format_signal(end.signal) + (" (out of memory)" if end.oom else "")
