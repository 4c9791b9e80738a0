"""Hanging up so that the peer hears of it.

Owns: the order of shutting, emptying and closing a socket. A unix socket that is closed with bytes unread resets its
peer, and a peer that is a VMM's vsock device may lose that: vhost-device-vsock then holds the connection for good, and
the guest goes on with a shell, a reader or a call that nobody listens to. Must not know: protocols.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

_PIECE_BYTES = 65536


def take_leave(sock: socket.socket) -> None:
    """Nothing more goes either way, and what came is thrown away. Never blocks: after the shutdown nothing comes."""
    with contextlib.suppress(OSError):  # a peer that is gone needs no farewell
        sock.settimeout(0)
        sock.shutdown(socket.SHUT_RDWR)
        while sock.recv(_PIECE_BYTES):
            pass


def hang_up(sock: socket.socket) -> None:
    """Take leave and close."""
    take_leave(sock)
    sock.close()


@contextlib.contextmanager
def hanging_up(sock: socket.socket) -> Iterator[socket.socket]:
    """The socket, hung up at the end."""
    try:
        yield sock
    finally:
        hang_up(sock)
