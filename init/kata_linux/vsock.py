"""Sockets between a VM and its host: vsock(7).

Owns: listening, dialling, the local context id. Must not know: who talks about what. Without a driver for it
the kernel answers EAFNOSUPPORT; without a transport, ENODEV. Descriptors are plain numbers, close-on-exec,
non-blocking.
"""

from __future__ import annotations

import _socket
import os
import struct

from kata_linux._libc import fail

CID_ANY = 0xFFFFFFFF
CID_HOST = 2
PORT_ANY = 0xFFFFFFFF
_IOCTL_VM_SOCKETS_GET_LOCAL_CID = 0x7B9


def listen(port: int, *, cid: int = CID_ANY, backlog: int = 128) -> int:
    """A listening stream socket, as a descriptor."""
    return _open("listen", port, cid, backlog)


def connect(cid: int, port: int) -> int:
    """Start to connect a stream socket; it becomes writable when that is decided (SO_ERROR tells how)."""
    return _open("connect", port, cid, None)


def read_local_cid(*, dev: str = "/dev") -> int:
    """The context id of this machine: 3 and up in a guest, 2 on a host, 1 without a transport."""
    import fcntl

    with open(f"{dev}/vsock", "rb", buffering=0) as file:
        answer = fcntl.ioctl(file, _IOCTL_VM_SOCKETS_GET_LOCAL_CID, struct.pack("=I", 0))
    cid: int = struct.unpack("=I", answer)[0]
    return cid


def _open(operation: str, port: int, cid: int, backlog: int | None) -> int:
    name = f"vsock://{cid}:{port}"
    try:
        end = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
    except OSError as error:
        fail(error.errno or 0, operation, name)
    end.settimeout(0)
    try:
        if backlog is None:
            end.connect((cid, port))
        else:
            end.bind((cid, port))
            end.listen(backlog)
    except BlockingIOError:
        pass  # EINPROGRESS
    except OSError as error:
        end.close()
        fail(error.errno or 0, operation, name)
    fd = end.detach()
    os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's own signature
    return fd
