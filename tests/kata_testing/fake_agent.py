"""A small agent for PID 1's tests: obeys lines on its listening socket, tells what it hears on its control channel.

Named on PID 1's command line as `kata.agent=kata_testing.fake_agent:run`. One client at a time sends commands, one a
line; each event is one line back, whoever is connected. Uses the standard library only and no event loop.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from kata_init import control
from kata_init.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_MS = 60_000
ORPHANS_OF_A_FAILURE = 50


class FakeAgent:
    """State of one life of the agent."""

    def __init__(self, channel: control.AgentChannel) -> None:
        self.channel = channel
        self.stored: dict[str, tuple[int, ...]] = {}
        self.events: list[str] = []
        self.client: socket.socket | None = None
        self.told = 0
        self.heard = b""

    def run(self) -> int:
        """Serve until PID 1 wants the end (SIGTERM) or is gone."""
        poll = select.poll()
        poll.register(self.channel.fileno(), select.POLLIN)
        while "synced" not in self.events:
            poll.poll(DEADLINE_MS)
            self.take_packets()
        poll.register(self.stored["listen"][0], select.POLLIN)
        ended = _open_sigterm_pipe()
        poll.register(ended, select.POLLIN)
        self.channel.ready()
        while not self.channel.closed:
            ready = {fd for fd, _ in poll.poll(DEADLINE_MS)}
            if self.channel.fileno() in ready or ended in ready:
                self.take_packets()  # PID 1 hands the exits over before it ends the agent
            if self.stored["listen"][0] in ready:
                self.accept(poll)
            if self.client is not None and self.client.fileno() in ready:
                self.hear(self.client, poll)
            self.tell()
            if ended in ready:
                break
        return 0

    def accept(self, poll: select.poll) -> None:
        listener = socket.socket(fileno=os.dup(self.stored["listen"][0]))
        self.client, _ = listener.accept()
        listener.close()
        self.told, self.heard = 0, b""
        poll.register(self.client.fileno(), select.POLLIN)

    def hear(self, client: socket.socket, poll: select.poll) -> None:
        data = client.recv(65536)
        if not data:
            poll.unregister(client.fileno())
            client.close()
            self.client = None
        *lines, self.heard = (self.heard + data).split(b"\n")
        for line in lines:
            self.obey(line.decode().split())

    def take_packets(self) -> None:
        for packet in self.channel.receive():
            match packet:
                case control.Stored(name, fds):
                    self.stored[name] = fds
                    self.events.append(f"stored {name} {len(fds)}")
                case Exit(pid, start_time, code, number):
                    self.events.append(f"exit {pid} {start_time} {code} {number}")
                case control.Boot(steps):
                    self.events.append(
                        "boot " + " ".join(f"{step.replace(' ', '-')}={stamp}" for step, stamp in steps)
                    )
                case control.Synced():
                    self.events.append("synced")
                case _:
                    self.events.append(repr(packet))

    def tell(self) -> None:
        if self.client is None:
            return
        fresh, self.told = self.events[self.told :], len(self.events)
        if fresh:
            self.client.sendall("".join(f"{event}\n" for event in fresh).encode())

    def obey(self, words: list[str]) -> None:
        COMMANDS[words[0]](self, *words[1:])


def _hello(agent: FakeAgent) -> None:
    fds = ",".join(sorted(os.listdir("/proc/self/fd"), key=int))
    agent.events.append(f"hello {os.getpid()} sid={os.getsid(0)} argv={sys.argv[1:]} fds={fds}")


def _store(agent: FakeAgent, name: str, text: str) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, text.encode())
    agent.channel.store(name, [read_end, write_end])
    os.close(read_end)
    os.close(write_end)
    agent.events.append(f"did store {name}")


def _read(agent: FakeAgent, name: str) -> None:
    agent.events.append(f"read {name} {os.read(agent.stored[name][0], 4096).decode()}")


def _orphans(agent: FakeAgent, count: str, code: str) -> None:
    """Make `count` orphans, each of which ends with `code`, by children that end at once."""
    for _ in range(int(count)):
        child = os.fork()
        if child == 0:
            if os.fork():
                os._exit(0)
            os._exit(int(code))
        os.waitpid(child, 0)
    agent.events.append("did orphans")


def _hold(agent: FakeAgent) -> None:
    """Make an orphan that waits for a signal, and tell its pid."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            os.write(write_end, str(os.getpid()).encode())
            os.closerange(3, 1000)
            select.select([], [], [])
        os._exit(0)
    os.waitpid(child, 0)
    agent.events.append(f"held {os.read(read_end, 100).decode()}")
    os.close(read_end)
    os.close(write_end)


def _storm(agent: FakeAgent, count: str) -> None:
    """Make an orphan that waits for SIGUSR1 and then leaves `count` ended children to PID 1, and tell its pid."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        if os.fork():
            os._exit(0)
        os.write(write_end, str(os.getpid()).encode())
        os.closerange(3, 1000)
        signal.sigwait({signal.SIGUSR1})
        for _ in range(int(count)):
            if os.fork() == 0:
                os._exit(7)
        os._exit(0)
    os.waitpid(child, 0)
    agent.events.append(f"held {os.read(read_end, 100).decode()}")
    os.close(read_end)
    os.close(write_end)


def _stall(agent: FakeAgent) -> None:
    """Read nothing any more."""
    agent.events.append("stalls")
    agent.tell()
    select.select([], [], [])


def _garbage(agent: FakeAgent) -> None:
    raw = socket.socket(fileno=os.dup(agent.channel.fileno()))
    raw.send(b"nonsense\0\xff")
    raw.close()
    agent.events.append("did garbage")


def _open_sigterm_pipe() -> int:
    """A descriptor that becomes readable with SIGTERM."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(write_end)
    return read_end


COMMANDS: dict[str, Callable[..., None]] = {
    "hello": _hello,
    "store": _store,
    "read": _read,
    "discard": lambda agent, name: agent.channel.discard(name),
    "forget": lambda agent, pid, start: agent.channel.forget_exit(int(pid), int(start)),
    "orphans": _orphans,
    "hold": _hold,
    "storm": _storm,
    "stall": _stall,
    "garbage": _garbage,
    "shutdown": lambda agent: agent.channel.shutdown(),
    "exit": lambda _, code: os._exit(int(code)),
}


def run(channel: control.AgentChannel) -> int:
    """The entry point."""
    return FakeAgent(channel).run()


def fail(_: control.AgentChannel) -> int:
    """An entry point that never gets ready."""
    raise RuntimeError("this agent cannot start")


def fail_under_load(channel: control.AgentChannel) -> int:
    """The same, while its children end."""
    for _ in range(ORPHANS_OF_A_FAILURE):
        if os.fork() == 0:
            os._exit(7)
    return fail(channel)
