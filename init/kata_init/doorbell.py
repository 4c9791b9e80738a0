"""The doorbell: one line to the host for each step, on a connection of its own, without ever waiting for the host.

Owns: the connections that are still being made, and the virtio port where that is the doorbell: it stays open, for
its host drops what comes out of a closed one. Must not know: what the steps mean. Each ring has two seconds; a
failure is told to the kernel log and nothing else happens.
"""

from __future__ import annotations

import _socket
import errno
import os
import time

from kata_linux import vsock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata_init.journal import Journal
    from kata_init.plan import Address

DEADLINE_NS = 2_000_000_000
_UNSAID_BYTES = 512


class Doorbell:
    """Rings at an address; `None` is a house without one."""

    __slots__ = ("_address", "_journal", "_pending", "_port", "_unsaid")

    def __init__(self, address: Address | None, journal: Journal) -> None:
        self._address = address
        self._journal = journal
        self._pending: dict[int, tuple[_socket.socket, bytes, int]] = {}
        self._port = -1
        self._unsaid = b""  # rung before there was a port

    def ring(self, line: str) -> None:
        """Send this line, now or when the connection is there (`handle`)."""
        if self._address is None:
            return
        if self._address.kind == "serial":
            self._say(line.encode() + b"\n")
            return
        try:
            end = _start_connect(self._address)
        except OSError as error:
            self._journal.warning(f"doorbell {self._address}: {error}")
            return
        deadline = time.monotonic_ns() + DEADLINE_NS
        self._pending[end.fileno()] = (end, line.encode() + b"\n", deadline)
        self._finish(end.fileno())

    def _say(self, line: bytes) -> None:
        """Write to the port. Where there is none yet, the next ring takes this one along."""
        from kata_linux import virtioports

        assert self._address is not None  # noqa: S101 - somebody has rung
        self._unsaid = (self._unsaid + line)[-_UNSAID_BYTES:]
        try:
            if self._port < 0 and (path := virtioports.find_port(self._address.path)) is not None:
                self._port = virtioports.open_port(path)
            if self._port < 0:
                self._journal.warning(f"doorbell {self._address}: there is no port of this name")
                return
            os.write(self._port, self._unsaid)
        except OSError as error:
            self._journal.warning(f"doorbell {self._address}: {error}")
        self._unsaid = b""

    def pending(self) -> list[int]:
        """Descriptors to poll for writing."""
        return list(self._pending)

    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        return min((deadline for _, _, deadline in self._pending.values()), default=None)

    def handle(self, fd: int) -> None:
        """This descriptor has become writable or failed."""
        self._finish(fd)

    def expire(self) -> None:
        """Give up what has waited too long."""
        now = time.monotonic_ns()
        for fd, (_, _, deadline) in list(self._pending.items()):
            if deadline <= now:
                self._drop(fd, "nobody answered in 2 s")

    def close(self) -> None:
        """Drop what is pending."""
        for fd in self.pending():
            self._drop(fd, "")

    def _finish(self, fd: int) -> None:
        if fd not in self._pending:
            return
        end, data, _ = self._pending[fd]
        number = end.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if number:
            self._drop(fd, os.strerror(number))
            return
        try:
            end.send(data, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError as error:
            # a connection that is still being made answers ENOTCONN; the poll tells when it is decided
            if not _is_connecting(error):
                self._drop(fd, str(error))
            return
        self._drop(fd, "")

    def _drop(self, fd: int, reason: str) -> None:
        self._pending.pop(fd)[0].close()
        if reason:
            self._journal.warning(f"doorbell {self._address}: {reason}")


def _is_connecting(error: OSError) -> bool:
    return error.errno == errno.ENOTCONN


def _start_connect(address: Address) -> _socket.socket:
    if address.kind == "vsock":
        return _socket.socket(fileno=vsock.connect(address.cid, address.port))
    end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    end.settimeout(0)
    try:
        end.connect(f"\0{address.path}" if address.kind == "abstract" else address.path)
    except BaseException:
        end.close()
        raise
    return end
