"""The listening socket, opened by PID 1 so that a host which connects early waits instead of failing.

Owns: opening one for an address. Must not know: who will accept.
"""

from __future__ import annotations

import _socket
import os
import stat

from kata_linux import vsock
from kata_linux._libc import fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata_init.plan import Address

BACKLOG = 128


def open_listener(address: Address) -> int:
    """A listening, close-on-exec, non-blocking stream socket as a descriptor.

    A socket file that is left over is replaced; one that somebody still listens on gives EADDRINUSE.
    """
    if address.kind == "vsock":
        return vsock.listen(address.port, cid=address.cid, backlog=BACKLOG)
    name = f"\0{address.path}" if address.kind == "abstract" else address.path
    if address.kind == "unix":
        _remove_stale(address.path)
        os.makedirs(os.path.dirname(address.path), exist_ok=True)
    end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    end.settimeout(0)
    try:
        end.bind(name)
        end.listen(BACKLOG)
    except OSError as error:
        end.close()
        fail(error.errno or 0, "listen", str(address))
    return end.detach()


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        return  # bind will tell EADDRINUSE: what is no socket is not ours to remove
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    probe.settimeout(0)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except BlockingIOError:
        pass  # alive, its backlog full
    finally:
        probe.close()
