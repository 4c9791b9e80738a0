"""The log records of `connect`: JSON lines with the original's keys (spec of the host side, 1.10)."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TextIO

from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

_LEVELS = {
    "trace": "TRCE",
    "debug": "DEBG",
    "info": "INFO",
    "warn": "WARN",
    "error": "ERRO",
    "critical": "CRIT",
}
_ORDER = tuple(_LEVELS)
_NAME = "kata-agent-ctl"


def format_time(time_ns: int) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"


def render(message: Message) -> str:
    """A message as text on one line."""
    return MessageToString(message, as_one_line=True)


class Records:
    """Writes records of a level and above."""

    def __init__(self, level: str, stream: TextIO | None = None) -> None:
        self._least = _ORDER.index(level)
        self._stream = stream or sys.stdout

    def write(self, level: str, msg: str, **more: object) -> None:
        """One line."""
        if _ORDER.index(level) < self._least:
            return
        record = {
            "msg": msg, "level": _LEVELS[level], "ts": format_time(time.time_ns()), "version": "0.1.0",
            "pid": str(os.getpid()), "name": _NAME, "source": _NAME, "subsystem": "rpc", **more,
        }  # fmt: skip
        print(json.dumps(record), file=self._stream, flush=True)
