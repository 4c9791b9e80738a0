"""The asker's end of the engine's process: start it, ask it, take its end for an answer too.

Owns: the socket pair, the frames, the deadlines. Must not know: what a rule's value means, who starts processes (a
`Launcher` is handed in). One question at a time; the caller sees to that.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from kata_policy import worker
from kata_policy.extension import EXTENSION, find_extension
from kata_policy.rules import PACKAGE

START_DEADLINE_S = 30.0
ANSWER_DEADLINE_S = worker.ALARM_S + 4.0

_CODE = "import sys; sys.path[:0] = sys.argv[1:]; from kata_policy.worker import main; main()"


_ENDS = {
    f"signal {signal.SIGALRM.value}": f"the policy took more than {worker.ALARM_S} s",
    f"signal {signal.SIGABRT.value}": f"the policy wanted more than {worker.MEMORY_LIMIT_BYTES >> 20} MiB of memory",
    f"signal {signal.SIGSEGV.value}": "the policy overflowed the stack, as rules do that lead to themselves",
}


def explain(end: str) -> str:
    """How the process ended, with what usually ends it so."""
    return f"{end}: {_ENDS[end]}" if end in _ENDS else end


class Process(Protocol):
    """A started process, as its owner sees it."""

    async def stop(self) -> str:
        """Kill it if it still runs, wait for its end, and say how it ended: `signal 11`, `exit status 1`."""


Launcher = Callable[[list[str], socket.socket], Process]
"""Starts argv (argv[0] is a path) with the socket as its standard input and output; its errors are the owner's."""


class BadPolicyError(ValueError):
    """The text is no policy for this agent; says where and why."""


class EngineError(Exception):
    """The engine could not answer: it is missing, did not start, ended or took too long."""


class Loaded(NamedTuple):
    """What is known of a policy once it is read: its rules; True or False for those that need no evaluation."""

    rules: dict[str, bool | None]


def worker_command() -> list[str]:
    """The command line of the engine's process. Raises `EngineError`."""
    extension = find_extension()
    if extension is None:
        raise EngineError(f"{EXTENSION} is not installed here")
    interpreter = os.readlink("/proc/self/exe")
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [interpreter, "-ISOOB", "-c", _CODE, ours, extension]


class Engine:
    """One engine process with one policy in it."""

    def __init__(self, launch: Launcher) -> None:
        command = worker_command()
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        try:
            with theirs:
                self._process = launch(command, theirs)
        except BaseException:
            ours.close()
            raise
        self._socket = ours
        self._deadline_s = START_DEADLINE_S

    async def load(self, text: str) -> Loaded:
        """Read a policy. Raises `BadPolicyError`, `EngineError`."""
        answer = json.loads(await self._ask(worker.LOAD, text))
        if answer["package"] != f"data.{PACKAGE}":
            package = answer["package"].removeprefix("data.")
            raise BadPolicyError(
                f"its package is {package!r}, must be {PACKAGE!r}: no rule of it would be found"
            )
        return Loaded(answer["rules"])

    async def set_data(self, data: dict[str, Any]) -> None:
        """Put another data document in the place of the one there is. Raises `EngineError`."""
        await self._ask(worker.DATA, json.dumps(data))

    async def evaluate(self, query: str, request: str) -> dict[str, Any]:
        """The outcome of a query with this input: `values`, `error`, `prints`. Raises `EngineError`."""
        outcome: dict[str, Any] = json.loads(await self._ask(worker.QUERY, f"{query}\0{request}"))
        return outcome

    async def stop(self) -> str:
        """End the process; says how it ended."""
        self._socket.close()
        return await self._process.stop()

    async def _ask(self, verb: bytes, text: str) -> str:
        payload = text.encode()
        if len(payload) > worker.QUESTION_LIMIT_BYTES:
            raise EngineError(
                f"{len(payload)} bytes are too many for the engine, it takes {worker.QUESTION_LIMIT_BYTES}"
            )
        limit_s, self._deadline_s = self._deadline_s, ANSWER_DEADLINE_S
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit_s):
                await loop.sock_sendall(self._socket, worker.HEADER.pack(verb, len(payload)) + payload)
                kind, length = worker.HEADER.unpack(await self._receive(worker.HEADER.size))
                answer = (await self._receive(length)).decode()
        except TimeoutError:
            raise EngineError(f"no answer in {limit_s:.0f} s") from None
        except (ConnectionError, EOFError):
            raise EngineError(f"ended while it was asked ({explain(await self._process.stop())})") from None
        if kind == worker.REFUSAL:
            raise BadPolicyError(answer.strip())
        return answer

    async def _receive(self, length: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < length:
            piece = await loop.sock_recv(self._socket, min(length - len(data), 1 << 18))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)
