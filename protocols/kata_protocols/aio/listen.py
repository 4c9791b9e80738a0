"""Listening sockets: from an address to a bound one, replacing what a dead server left.

PID 1 opens its own socket without this module; this is for an agent that runs alone, and for tests.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from kata_protocols.aio.address import Address, HybridAddress, SerialAddress, UnixAddress, VsockAddress

# One connection for each runtime process is usual; a burst of dials must not meet a full queue.
BACKLOG = 4096


def open_listener(address: Address, *, backlog: int = BACKLOG) -> socket.socket:
    """Return a listening, non-blocking socket; the caller owns it (and the path of a unix socket)."""
    if isinstance(address, HybridAddress | SerialAddress):
        raise OSError(errno.EOPNOTSUPP, f"listen on {address}: the VMM listens there; use vsock or unix")
    family = socket.AF_VSOCK if isinstance(address, VsockAddress) else socket.AF_UNIX
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(address, VsockAddress):
            sock.bind((address.cid, address.port))
        else:
            _bind_unix(sock, address)
        sock.listen(backlog)
        sock.settimeout(0)
    except OSError as error:
        sock.close()
        # Python alone says that a unix path is too long, without an errno.
        why = (error.errno, error.strerror) if error.errno else (errno.ENAMETOOLONG, error.args[0])
        raise OSError(why[0], f"listen on {address}: {_advise(address, why[0]) or why[1]}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(sock: socket.socket, address: UnixAddress) -> None:
    """Bind; a socket file at which nobody listens is replaced, anything else is left alone."""
    try:
        sock.bind(address.path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not is_stale(address.path):
            raise
        os.unlink(address.path)
        sock.bind(address.path)


def _advise(address: Address, number: int | None) -> str:
    """What to do about an address that is taken."""
    if number != errno.EADDRINUSE:
        return ""
    if isinstance(address, UnixAddress) and address.path[0] != "\0" and not _is_socket(address.path):
        return "what is there is no socket and was left alone, remove it or listen elsewhere"
    return "another process listens there, end it or listen elsewhere"


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def is_stale(path: str) -> bool:
    """Whether `path` is a socket file that no process listens on."""
    if path.startswith("\0") or not _is_socket(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False  # its queue is full, so somebody has it
    return False
