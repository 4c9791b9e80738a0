"""The engine's process: questions in at descriptor 0, answers out, one after the other, until the asker hangs up.

Owns: what an evaluation may cost. A policy can loop, allocate without end or overflow the stack in the engine; here it
can end this process, and whoever asked takes that for a refusal. So the memory is limited, and the kernel's alarm ends
an evaluation that the engine's own clock does not stop. Must not know: requests, decisions. Imports next to nothing: it
is memory of the guest for as long as a policy is set.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from importlib import import_module
from typing import Any

EVALUATION_LIMIT_MS = 4000
ALARM_S = 8
MEMORY_LIMIT_BYTES = 512 << 20
QUESTION_LIMIT_BYTES = 64 << 20
ANSWER_LIMIT_BYTES = 16 << 20

HEADER = struct.Struct(">cI")
LOAD, DATA, QUERY = b"L", b"D", b"Q"
ANSWER, REFUSAL = b"A", b"R"
NAME = "policy.rego"


def main() -> None:
    """Serve; the process ends with the other end of its descriptor 0."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    engine = import_module("kata_policy_engine").Engine(EVALUATION_LIMIT_MS)
    while (frame := _read(HEADER.size)) is not None:
        verb, length = HEADER.unpack(frame)
        payload = _read(length)
        if payload is None:
            return
        signal.alarm(ALARM_S)
        try:
            answer = ANSWER, check_size(answer_to(engine, verb, payload.decode()))
        except ValueError as error:
            answer = REFUSAL, str(error)
        finally:
            signal.alarm(0)
        _write(*answer)


def answer_to(engine: Any, verb: bytes, text: str) -> str:
    """One question. Raises `ValueError` with the engine's words."""
    if verb == LOAD:
        package = engine.load(NAME, text).replace("\\", "\\\\").replace('"', '\\"')
        return f'{{"package":"{package}","rules":{engine.rules()}}}'
    if verb == DATA:
        engine.set_data(text)
        return "null"
    query, _, request = text.partition("\0")
    return str(engine.evaluate(query, request))


def check_size(answer: str) -> str:
    """The answer, which whoever asked has to hold too. Raises `ValueError`."""
    if len(answer) > ANSWER_LIMIT_BYTES:
        raise ValueError(f"the answer and what was printed have {len(answer)} characters, too many")
    return answer


def _read(length: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < length:
        piece = os.read(0, min(length - len(pieces), 1 << 20))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)


def _write(verb: bytes, text: str) -> None:
    payload = text.encode()
    left = memoryview(HEADER.pack(verb, len(payload)) + payload)
    try:
        while left:
            left = left[os.write(0, left) :]
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # whoever asked has gone
