"""The log records of `connect`: JSON lines with the original's keys (spec of the host side, 1.10)."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TextIO

from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from kata_protocols.log_record import LEVELS, ORDER, timestamp

_NAME = "kata-agent-ctl"


def render(message: Message) -> str:
    """A message as text on one line."""
    return MessageToString(message, as_one_line=True)


class Records:
    """Writes records of a level and above."""

    def __init__(self, level: str, stream: TextIO | None = None) -> None:
        self._least = ORDER.index(level)
        self._stream = stream or sys.stdout

    def write(self, level: str, msg: str, **more: object) -> None:
        """One line."""
        if ORDER.index(level) < self._least:
            return
        record = {
            "msg": msg, "level": LEVELS[level], "ts": timestamp(time.time_ns()), "version": "0.1.0",
            "pid": str(os.getpid()), "name": _NAME, "source": _NAME, "subsystem": "rpc", **more,
        }  # fmt: skip
        print(json.dumps(record), file=self._stream, flush=True)
