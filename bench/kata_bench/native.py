"""The agent on the machine itself: started as root on a unix socket of its own, gone when the measurement ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kata_bench.wire import HEALTH, Client, connect
from kata_protocols.gen import health_pb2

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / ".venv" / "bin" / "kata-agent"
CRUN = ROOT / "build" / "crun"
START_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 30.0
_RETRY_S = 0.0005


# Off the machine's /run, where another agent may be at work: both would make and remove the sandbox's namespaces.
_OWN_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
_PID1 = ("unshare", "--fork", "--pid", "--kill-child=SIGKILL", str(AGENT.parent / "kata-init"))


class NativeAgent:
    """A running agent, `supervised` by a PID 1 of fresh namespaces, or `bare`: without a /run of its own.

    Owns the process; `log` is what it said.
    """

    def __init__(self, folder: Path, *, supervised: bool = False, bare: bool = False) -> None:
        self.folder = folder
        self.supervised = supervised
        self.address = f"unix://{folder}/agent.sock"
        self.log = folder / "agent.log"
        environment = {
            "PATH": f"{CRUN.parent}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
            "KATA_AGENT_SERVER_ADDR": self.address,
            "KATA_AGENT_LOG_LEVEL": "error",
            "KATA_AGENT_CRUN": str(CRUN),
            "KATA_AGENT_PASSFD_LISTENER": f"unix://{folder}/streams.sock",
        }
        under = _PID1 if supervised else () if bare else _OWN_RUN
        words = [f"kata.log={self.log}"] if supervised else [str(AGENT)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*under, *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._death = os.pidfd_open(self.process.pid)

    def connect(self) -> Client:
        """A new connection, as soon as the agent listens. RuntimeError with its output when it dies before that."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return Client(connect(self.address, CALL_TIMEOUT_S))
            except (FileNotFoundError, ConnectionRefusedError):
                died, _, _ = select.select([self._death], [], [], _RETRY_S)
            if died or time.monotonic() > deadline:
                state = "ended" if died else f"did not listen within {START_TIMEOUT_S:.0f} s"
                raise RuntimeError(f"kata-agent {state}; its output: {self.log.read_text()[-2000:]}")

    def connect_stream(self, port: int) -> socket.socket:
        """A connection for a stream, which a request names by this port; the caller closes it."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CALL_TIMEOUT_S)
        connection.bind(f"\0{self.folder}:{port}")
        connection.connect(f"{self.folder}/streams.sock")
        return connection

    def close(self) -> None:
        """End it: asked first, made to after a while. A namespace ends with its first process."""
        self.process.send_signal(signal.SIGKILL if self.supervised else signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._death)


@contextmanager
def run_agent(*, supervised: bool = False, bare: bool = False) -> Iterator[NativeAgent]:
    """An agent in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="kata-bench-") as folder:
        agent = NativeAgent(Path(folder), supervised=supervised, bare=bare)
        try:
            yield agent
        finally:
            agent.close()


def check(client: Client) -> None:
    """One Check that must answer SERVING."""
    answer = client.call(HEALTH, "Check", health_pb2.CheckRequest(), health_pb2.HealthCheckResponse)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise RuntimeError(f"Check answered {answer.status}")
