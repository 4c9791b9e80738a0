"""Terminals: taking the master from crun's console socket, writing to it, its size and its end-of-file character.

Owns the console socket while a process starts, then the master. crun makes the pty inside the container's own
devpts and sends the master as SCM_RIGHTS. Must not know: containers.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

from kata_agent.errors import WrongState
from kata_agent.processes.stdio import Input

if TYPE_CHECKING:
    from typing import Self

TIOCSWINSZ = 0x5414


class ConsoleSocket:
    """The listening socket that crun connects to; a context manager that removes its path."""

    def __init__(self, path: str) -> None:
        """`path` must fit a unix socket's name (107 bytes); what is left there is replaced."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # nothing is left of an agent that was killed
        try:
            self._socket.bind(path)
            self._socket.listen(1)
            self._socket.settimeout(0)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The listening socket: whoever has a copy of it can take the master when this process cannot any more."""
        return self._socket.fileno()

    def take_master(self) -> int:
        """The master that crun has sent by the time it ended; the caller owns it, it is non-blocking."""
        return take_master(self._socket)

    def close(self) -> None:
        """Remove the socket. Twice is fine."""
        self._socket.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # closed before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take_master(listener: socket.socket) -> int:
    """The master that crun has sent to this listening socket; the caller owns it, it is non-blocking."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        raise WrongState("crun has made no terminal") from None
    fds = array.array("i")
    with connection:
        connection.settimeout(0)
        try:
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize))
        except (BlockingIOError, ConnectionError):
            ancillary = []  # it was killed between connecting and sending
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise WrongState("crun has sent no terminal")
    os.set_inheritable(fds[0], False)  # noqa: FBT003 - the library's signature
    os.set_blocking(fds[0], False)
    return fds[0]


class TerminalInput(Input):
    """The writing side of a master. The end of input is a character here: the output side stays open."""

    def end(self) -> None:
        """Send VEOF, which ends the input of a reader in line mode at the start of a line."""
        if self.fd >= 0:
            try:
                os.write(self.fd, end_of_file_character(self.fd))
            except BlockingIOError:
                pass  # so much unread input waits that nobody reads; an end behind it would not be seen either


def end_of_file_character(fd: int) -> bytes:
    """VEOF as the terminal is set now, usually ^D."""
    import termios  # only terminals need it

    character = termios.tcgetattr(fd)[6][termios.VEOF]
    return character if isinstance(character, bytes) else bytes([character])


def set_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ; both are cut to 16 bits, as hosts expect."""
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("=HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
