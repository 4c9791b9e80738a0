"""A `kata-agent` on this machine, and a plain blocking client of it. For tests of the root layer.

The agent runs in its own private mount namespace; `root` is the way to look into it. Everything has a deadline.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kata_protocols import services
from kata_protocols.gen import ttrpc_pb2

DEADLINE_S = 30.0
# A program to start an agent under that keeps it off the machine's /run, where other agents' tests are at work.
OWN_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
_HEADER = struct.Struct(">IIBB")
_SERVICES = {"grpc.Health": "HEALTH_SERVICE", "grpc.AgentService": "AGENT_SERVICE"}


class CallError(Exception):
    """The agent answered with a status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{ttrpc_pb2.Code.Name(ttrpc_pb2.Code.ValueType(code))}: {message}")
        self.code = code
        self.message = message


class Connection:
    """One connection; calls follow each other."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(path)
        self._stream_id = 1

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, *, service: str = "grpc.AgentService", **fields: Any) -> Any:
        """Make a request of the fields, send it, return the reply. Raises `CallError`."""
        about = getattr(services, _SERVICES[service]).methods[method]
        payload = about.request_type(**fields).SerializeToString()
        request = ttrpc_pb2.Request(service=service, method=method, payload=payload).SerializeToString()
        self._socket.sendall(_HEADER.pack(len(request), self._stream_id, 1, 0) + request)
        self._stream_id += 2
        length, _, _, _ = _HEADER.unpack(self._receive(_HEADER.size))
        response = ttrpc_pb2.Response.FromString(self._receive(length))
        if response.status.code:
            raise CallError(response.status.code, response.status.message)
        return about.response_type.FromString(response.payload)

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the agent closed the connection")
            data += piece
        return data


class NativeAgent:
    """A running agent."""

    def __init__(self, process: subprocess.Popen[str], path: str) -> None:
        self.process = process
        self.path = path

    @property
    def root(self) -> Path:
        """The agent's own view of the file system."""
        return Path(f"/proc/{self.process.pid}/root")

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        connection = Connection(self.path)
        try:
            yield connection
        finally:
            connection.close()

    def mounts(self) -> str:
        return Path(f"/proc/{self.process.pid}/mountinfo").read_text()

    def wait(self) -> tuple[int, str]:
        """Wait for the end: exit status and standard error."""
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, errors


def command() -> list[str]:
    """The agent's command line, from the environment that runs the tests."""
    return [sys.executable, "-m", "kata_agent"]


@contextmanager
def start_agent(
    directory: Path, environment: Mapping[str, str] | None = None, *, under: tuple[str, ...] = ()
) -> Iterator[NativeAgent]:
    """An agent that listens; at the end it is stopped in order, and killed if that does not help.

    `under` is a program that runs it, by exec: `("unshare", "--net")`.
    """
    path = str(directory / "agent.sock")
    process = subprocess.Popen(
        [*under, *command()],
        env={**os.environ, "KATA_AGENT_SERVER_ADDR": f"unix://{path}", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_output(process)
        yield NativeAgent(process, path)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def wait_for_output(process: subprocess.Popen[str]) -> None:
    """Wait for the first line of the log, which is written when the socket listens."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000), "the agent wrote nothing"
    if not process.stdout.readline():
        _, errors = process.communicate(timeout=DEADLINE_S)
        raise AssertionError(f"the agent ended with {process.returncode}: {errors}")
