"""PID 1 on this machine: kata-init as the first process of fresh namespaces, with the fake agent as its agent.

Owns: the process, its folder and the doorbell that it rings at. Everything has a deadline. What is started is gone
when the context ends, because the namespace dies with its PID 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
FAKE_AGENT = "kata_testing.fake_agent:run"


PYTHON = (sys.executable, "-m", "kata_init")
BARE_PYTHON = (
    sys.executable,
    *("-I", "-S", "-c"),
    f"import sys; sys.path[:0] = [{str(ROOT / 'init')!r}, {str(ROOT / 'tests')!r}]; import kata_init.__main__",
)


class Peer:
    """A client of the fake agent: commands out, events back."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(os.fspath(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self.seen: list[str] = []

    def say(self, *commands: str) -> None:
        self._socket.sendall("".join(f"{command}\n" for command in commands).encode())

    def expect(self, beginning: str) -> str:
        """Read events until one begins so; gives what follows the beginning."""
        for line in self._lines:
            self.seen.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return line[len(beginning) :].strip()
        raise AssertionError(f"the agent hung up before {beginning!r}; it said {self.seen}")

    def count(self, beginning: str) -> int:
        return sum(line.startswith(beginning) for line in self.seen)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Machine:
    """A running PID 1."""

    def __init__(self, folder: Path, words: tuple[str, ...], python: tuple[str, ...] = PYTHON) -> None:
        self.folder = folder
        self.socket = folder / "agent.sock"
        self.log_path = folder / "kernel.log"
        self.log_path.touch()
        self._bell = socket.socket(socket.AF_UNIX)
        self._bell.bind(os.fspath(folder / "bell.sock"))
        self._bell.listen(16)
        self._bell.settimeout(DEADLINE_S)
        own = (f"agent.server_addr=unix://{self.socket}", f"kata.log={self.log_path}")
        command = ["unshare", "--fork", "--pid", "--kill-child", *python, *own]
        command += [f"kata.doorbell=unix:{folder}/bell.sock", f"kata.agent={FAKE_AGENT}", *words]
        environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT / "tests")}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        """PID 1's id as the machine sees it."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(task.read_text())

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ring(self) -> str:
        """The next line at the doorbell."""
        connection, _ = self._bell.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            return connection.makefile().readline().rstrip("\n")

    def wait_ready(self) -> None:
        assert self.wait_ring().startswith("pid1 up ")
        assert self.wait_ring().startswith("agent ready ")

    def agent_pid(self) -> int:
        """The agent's id as the machine sees it."""
        named = [pid for pid in self.children() if Path(f"/proc/{pid}/comm").read_text() == "kata-agent\n"]
        assert len(named) == 1, f"children of PID 1: {self.children()}"
        return named[0]

    def children(self) -> list[int]:
        """The children of PID 1 as the machine sees them."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def connect(self) -> Peer:
        return Peer(self.socket)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal PID 1 and wait; gives the exit code of the namespace."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr.read()
        self.process.stderr.close()
        self._bell.close()


@contextmanager
def start_machine(folder: Path, *words: str, python: tuple[str, ...] = PYTHON) -> Iterator[Machine]:
    """Run kata-init as PID 1; `words` come last on its command line, so they win.

    `python` starts it: by default like the console script, `BARE_PYTHON` like the guest's launcher.
    """
    machine = Machine(folder, words, python)
    try:
        yield machine
    finally:
        machine.close()
