"""Streams that outlive the agent: which of a process's descriptors PID 1 keeps, and under which names.

Owns the names. Must not know how PID 1 keeps them. Stand-alone nobody keeps anything and reads are plain.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from kata_agent.errors import WrongState
from kata_agent.processes.stdio import Input, Output, PlainOutput
from kata_agent.processes.tty import TerminalInput, take_master

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kata_agent.processes.copying import Copy
    from kata_agent.processes.process import Process

PREFIX = "container/"
CONSOLE = "console"
STREAMS = ("stdin", "stdout", "stderr")


class Keeper(Protocol):
    """The descriptor store of PID 1."""

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies of these descriptors under this name until `discard`."""

    def discard(self, name: str) -> None:
        """Close what is kept under this name; unknown names are fine."""


class StreamKeeper:
    """Makes streams of descriptors; with a keeper, ones that the next agent can go on with."""

    def __init__(self, keeper: Keeper | None) -> None:
        self._keeper = keeper

    def attach_pipes(self, process: Process, container_id: str, fds: Sequence[int]) -> None:
        """Own the parent's ends of stdin, stdout and stderr."""
        name = _name(container_id, process)
        for stream, fd in zip(("stdin", "stdout", "stderr"), fds, strict=True):
            self._store(f"{name}/{stream}", (fd,))
        stdin, stdout, stderr = fds
        process.attach_pipes(
            Input(stdin, on_close=lambda: self._discard(f"{name}/stdin")),
            self._output(f"{name}/stdout", stdout, ()),
            self._output(f"{name}/stderr", stderr, ()),
        )

    def attach_terminal(self, process: Process, container_id: str, master: int) -> None:
        """Own a terminal's master."""
        name = f"{_name(container_id, process)}/terminal"
        self._store(name, (master,))
        self._adopt_terminal(process, name, master)

    def attach_own_pipes(
        self,
        process: Process,
        container_id: str,
        fds: Sequence[int],
        connections: list[socket.socket | None],
    ) -> None:
        """The same, each copied to or from its connection, which is taken out of the list; without one it is closed."""
        copies = []
        for index, (stream, fd) in enumerate(zip(STREAMS, fds, strict=True)):
            connection, connections[index] = connections[index], None
            if connection is None:
                os.close(fd)
                continue
            kept = (fd, connection.detach())
            name = f"{_name(container_id, process)}/{stream}.own"
            self._store(name, kept)
            copies.append(self._copy(name, stream, kept))
        process.attach_own(tuple(copies), None)

    def attach_own_terminal(
        self, process: Process, container_id: str, master: int, connections: list[socket.socket | None]
    ) -> None:
        """A terminal, both ways copied; output without a connection is read by calls, the terminal must not fill up."""
        name = _name(container_id, process)
        stdin, stdout, _ = connections
        self._store(f"{name}/terminal", (master,))
        copies = []
        if stdout is None:
            self._adopt_terminal(process, f"{name}/terminal", os.dup(master))
        for index, (stream, connection) in enumerate((("stdin", stdin), ("stdout", stdout))):
            if connection is None:
                continue
            connections[index] = None
            relay = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            kept = (os.dup(master), connection.detach(), *relay)
            self._store(f"{name}/{stream}.own", kept)
            copies.append(self._copy(f"{name}/{stream}.own", stream, kept))
        self._attach_own_master(process, f"{name}/terminal", master, copies)

    def _attach_own_master(self, process: Process, name: str, master: int, copies: list[Copy]) -> None:
        terminal = TerminalInput(master, on_close=lambda: self._discard(name)) if master >= 0 else None
        if process.stdin is not None:
            process.stdin.close()
        process.attach_own(tuple(copies), terminal)

    def _copy(self, name: str, stream: str, fds: tuple[int, ...]) -> Copy:
        from kata_agent.processes.copying import Copy

        end, connection, *relay = fds
        return Copy(
            end,
            socket.socket(fileno=connection),
            tuple(relay),
            inward=stream == "stdin",
            on_done=lambda: self._discard(name),
        )

    def read_by_calls(self, process: Process, container_id: str, stream: str, fd: int) -> Output[Any]:
        """One output's pipe, owned from here on, after something else has read it."""
        name = self.name(container_id, process, stream)
        if fd >= 0:
            self._store(name, (fd,))
        return self._output(name, fd, ())

    def read_terminal_by_calls(self, process: Process, container_id: str, master: int) -> None:
        """The same for a terminal's master; -1: it has ended."""
        name = self.name(container_id, process, "terminal")
        if master < 0:
            ended = PlainOutput(-1)
            process.outputs = {"stdout": ended, "stderr": ended}
            return
        self._store(name, (master,))
        if process.stdin is not None:
            process.stdin.close()
        self._adopt_terminal(process, name, master)

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Have these kept, if somebody can; what was kept under this name goes."""
        self._store(name, fds)

    def discard(self, name: str) -> None:
        """They are not needed any more."""
        self._discard(name)

    def name(self, container_id: str, process: Process, what: str) -> str:
        """Under which name a descriptor of this process is kept."""
        return f"{_name(container_id, process)}/{what}"

    def restore(self, process: Process, container_id: str, stored: dict[str, tuple[int, ...]]) -> None:
        """The streams of a process that an earlier agent has started; those it closed are closed."""
        self._restore_streams(process, container_id, stored)
        prefix = f"{_name(container_id, process)}/"
        for entry in [entry for entry in stored if entry.startswith(prefix) and ".session/" in entry]:
            from kata_agent.containers import sessions  # only who has any

            sessions.restore(self, process, entry, stored.pop(entry))

    def _restore_streams(
        self, process: Process, container_id: str, stored: dict[str, tuple[int, ...]]
    ) -> None:
        name = _name(container_id, process)
        master = self._restore_master(name, stored)
        own = [stream for stream in STREAMS if f"{name}/{stream}.own" in stored]
        if own:
            if process.terminal and master >= 0 and "stdout" not in own:
                self._adopt_terminal(process, f"{name}/terminal", os.dup(master))
            names = [(stream, f"{name}/{stream}.own") for stream in own]
            copies = [self._copy(entry, stream, stored.pop(entry)) for stream, entry in names]
            self._attach_own_master(process, f"{name}/terminal", master, copies)
            return
        if master >= 0:  # the state file may be older than the terminal
            self._adopt_terminal(process, f"{name}/terminal", master)
            return
        (stdin,) = stored.pop(f"{name}/stdin", (-1,))
        process.attach_pipes(
            Input(stdin, on_close=lambda: self._discard(f"{name}/stdin")),
            *(self._restore_output(f"{name}/{stream}", stored) for stream in ("stdout", "stderr")),
        )

    def _restore_output(self, name: str, stored: dict[str, tuple[int, ...]]) -> Output[Any]:
        """A relay whose stream is closed stays in `stored`: the agent died before it had discarded both."""
        if name not in stored:
            return self._output(name, -1, ())
        return self._output(name, stored.pop(name)[0], stored.pop(f"{name}.relay", ()))

    def drop(self, names: Sequence[str], stored: dict[str, tuple[int, ...]]) -> None:
        """Nobody will ask for these any more."""
        for name in names:
            for fd in stored.pop(name):
                os.close(fd)
            self._discard(name)

    def hold_start(self, container_id: str, fifo: str) -> None:
        """Let PID 1 hold the fifo that init waits on until it is started.

        Were we killed between opening it and writing, init would see its end, spin, and fail when it is opened again.
        """
        if self._keeper is None:
            return
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._store(_start_name(container_id), (fd,))
        finally:
            os.close(fd)

    @contextmanager
    def hold_console(self, process: Process, container_id: str, listener: int) -> Iterator[None]:
        """Let PID 1 hold the socket that crun sends a terminal's master to: were we killed before we have taken it,
        the next agent does."""
        name = self.name(container_id, process, CONSOLE)
        self._store(name, (listener,))
        try:
            yield
        finally:
            self._discard(name)

    def _restore_master(self, name: str, stored: dict[str, tuple[int, ...]]) -> int:
        """A terminal's master, which crun may have sent while there was no agent; -1: it has none."""
        (master,) = stored.pop(f"{name}/terminal", (-1,))
        for fd in stored.pop(f"{name}/{CONSOLE}", ()):
            with socket.socket(fileno=fd) as listener:
                if master < 0:
                    try:
                        master = take_master(listener)
                    except WrongState:
                        continue  # crun had not come so far
                    self._store(f"{name}/terminal", (master,))
            self._discard(f"{name}/{CONSOLE}")
        return master

    def restore_start(self, container_id: str, stored: dict[str, tuple[int, ...]]) -> None:
        """PID 1 goes on holding it."""
        for fd in stored.pop(_start_name(container_id), ()):
            os.close(fd)

    def release_start(self, container_id: str) -> None:
        """Init has been started, or never will be."""
        self._discard(_start_name(container_id))

    def _adopt_terminal(self, process: Process, name: str, master: int) -> None:
        output = PlainOutput(master, on_close=lambda: self._discard(name))
        process.attach_terminal(TerminalInput(os.dup(master)), output)

    def _output(self, name: str, fd: int, relay_fds: tuple[int, ...]) -> Output[Any]:
        if self._keeper is None:
            return PlainOutput(fd)
        from kata_agent.processes.exact import ExactOutput, Relay  # not needed stand-alone

        def close() -> None:
            self._discard(name)
            self._discard(f"{name}.relay")

        return ExactOutput(
            fd,
            relay=Relay(relay_fds) if relay_fds else None,
            keep=lambda fds: self._store(f"{name}.relay", fds),
            on_close=close,
        )

    def _store(self, name: str, fds: Sequence[int]) -> None:
        if self._keeper is not None:
            self._keeper.store(name, fds)

    def _discard(self, name: str) -> None:
        if self._keeper is not None:
            self._keeper.discard(name)


def _start_name(container_id: str) -> str:
    return f"{PREFIX}{container_id}/start"


def _name(container_id: str, process: Process) -> str:
    return f"{PREFIX}{container_id}/{process.number}"
