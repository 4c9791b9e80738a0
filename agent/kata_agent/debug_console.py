"""The debug console: a shell of the guest on a terminal of its own, for each connection of the host.

Owns the listening socket and its sessions, at most `SESSIONS`. A session ends with its shell or with its peer, who
takes the shell along; nobody waits for anybody: each direction holds at most one piece that the other side has not
taken. Must not know: what is typed. Follows: Kata's agent, "Debug console"; window sizes are ours
(`kata_protocols.console`, decision 0113).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

from kata_agent.log_port import is_host
from kata_agent.processes import tty
from kata_agent.processes.exits import exactly
from kata_agent.processes.spawn import spawn_on_terminal
from kata_protocols.console import ConsoleInput, Size

if TYPE_CHECKING:
    from kata_agent.log import Log
    from kata_agent.processes.exits import ExitBook
    from kata_init.exits import Exit

NAME = "listen.console"
SHELLS = ("/bin/bash", "/bin/sh")
SESSIONS = 8
CONSOLE = "/dev/console"
_PIECE_BYTES = 65536
_ENVIRONMENT = {"HOME": "/", "TERM": "linux"}
NO_SHELL = (
    f"no shell in this guest, tried {' and '.join(SHELLS)}; "
    "name busybox's `sh` among the applets of the image's recipe"
)


class DebugConsole:
    """Needs the running loop; `close` ends it and every session."""

    def __init__(
        self, listener: socket.socket, exits: ExitBook, log: Log, shells: tuple[str, ...] = SHELLS
    ) -> None:
        """Owns the listener."""
        self.log = log
        self.exits = exits
        self.sessions: set[Session] = set()
        self._listener = listener
        self._shells = shells
        listener.setblocking(False)  # noqa: FBT003 - the library's signature
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def close(self) -> None:
        """Stop listening and hang up."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for session in tuple(self.sessions):
            session.close()

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError as error:
            self.log.warning("console", "a connection was not accepted", error=str(error))
            return
        connection.setblocking(False)  # noqa: FBT003
        shell = find_shell(self._shells)
        refusal = ""
        if not is_host(peer):
            refusal = "only the host may connect"
        elif len(self.sessions) >= SESSIONS:
            refusal = f"{SESSIONS} sessions are open, close one"
        elif shell is None:
            refusal = NO_SHELL
        if refusal or shell is None:
            self._refuse(connection, refusal)
            return
        try:
            self.sessions.add(Session(self, connection, shell))
        except OSError as error:
            self._refuse(connection, f"{shell}: {error.strerror}")

    def _refuse(self, connection: socket.socket, why: str) -> None:
        self.log.warning("console", "a debug console was refused", why=why)
        with connection:
            try:
                connection.send(f"kata-agent: {why}\r\n".encode())
            except OSError:
                pass  # it has gone


class Session:
    """One connection, its terminal and its shell."""

    def __init__(self, console: DebugConsole, connection: socket.socket, shell: str) -> None:
        """Owns the connection. OSError when there is no terminal or the shell cannot be run."""
        self._console = console
        self._connection = connection
        self._input = ConsoleInput()
        self._to_shell = bytearray()
        self._to_host = b""
        self._ended = False
        self._master, slave = os.openpty()
        try:
            os.set_blocking(self._master, False)
            path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            self._child = spawn_on_terminal([shell], os.ttyname(slave), {**_ENVIRONMENT, "PATH": path})
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)
        self._about = {"shell-pid": self._child.pid}
        console.exits.watch(self._child.pid, exactly(self._child.start_time), self._note_exit)
        console.log.info("console", "debug console opened", shell=shell, **self._about)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, self._read_shell)
        loop.add_reader(self._connection, self._read_host)

    def close(self) -> None:
        """Hang up and kill a shell that is left; what it runs hears of it by the terminal. Twice is fine."""
        if self._master < 0:
            return
        loop = asyncio.get_running_loop()
        for end in (self._master, self._connection):
            loop.remove_reader(end)
            loop.remove_writer(end)
        self._connection.close()
        os.close(self._master)
        self._master = -1
        if not self._ended:
            os.kill(self._child.pid, signal.SIGKILL)
        self._console.sessions.discard(self)
        self._console.log.info("console", "debug console closed", **self._about)

    def _note_exit(self, _end: Exit) -> None:
        """The shell has ended: what it has printed is sent, whoever else still holds the terminal."""
        self._ended = True
        if self._master >= 0 and not self._to_host:
            self._read_shell()

    def _read_shell(self) -> None:
        try:
            self._to_host = os.read(self._master, _PIECE_BYTES)
        except BlockingIOError:
            self._to_host = b""
            if self._ended:
                self.close()
            return
        except OSError:
            self._to_host = b""  # EIO: nobody has the terminal open any more
        if not self._to_host:
            self.close()
            return
        asyncio.get_running_loop().remove_reader(self._master)
        self._write_host()

    def _write_host(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._to_host = self._to_host[self._connection.send(self._to_host) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._to_host:
            loop.add_writer(self._connection, self._write_host)
            return
        loop.remove_writer(self._connection)
        loop.add_reader(self._master, self._read_shell)
        if self._ended:
            loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        if self._master >= 0 and not self._to_host:
            self._read_shell()

    def _read_host(self) -> None:
        try:
            data = self._connection.recv(_PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for piece in self._input.feed(data):
            if isinstance(piece, Size):
                tty.set_size(self._master, piece.rows, piece.columns)
            else:
                self._to_shell += piece
        self._write_shell()

    def _write_shell(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._to_shell:
                del self._to_shell[: os.write(self._master, self._to_shell)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._to_shell:
            loop.remove_reader(self._connection)
            loop.add_writer(self._master, self._write_shell)
        else:
            loop.remove_writer(self._master)
            loop.add_reader(self._connection, self._read_host)


def find_shell(shells: tuple[str, ...] = SHELLS) -> str | None:
    """The first one there is."""
    return next((shell for shell in shells if os.access(shell, os.X_OK)), None)


def open_on_console(log: Log, path: str = CONSOLE) -> None:
    """One shell on the guest's console, once. FileNotFoundError without a shell, OSError when it cannot be run."""
    shell = find_shell()
    if shell is None:
        raise FileNotFoundError(2, NO_SHELL)
    spawn_on_terminal([shell, "-i"], path, {**_ENVIRONMENT, "PATH": os.environ.get("PATH", "/usr/bin:/bin")})
    log.info("console", "debug console opened", shell=shell, on=path)
