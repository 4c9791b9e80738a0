"""Network interfaces by ioctl: netdevice(7).

Owns: up and its question. Must not know: addresses and routes (netlink's work, and not PID 1's).
"""

from __future__ import annotations

import _socket
import fcntl
import struct

from kata_linux._libc import fail

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_REQUEST = "=16sh22x"


def set_up(name: str) -> None:
    """Bring an interface of this network namespace up; ENODEV when there is none of this name."""
    _change(name, _IFF_UP)


def is_up(name: str) -> bool:
    """Whether the interface is up."""
    return bool(_change(name, 0) & _IFF_UP)


def _change(name: str, add: int) -> int:
    end = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        request = struct.pack(_REQUEST, name.encode(), 0)
        flags: int = struct.unpack(_REQUEST, fcntl.ioctl(end.fileno(), _SIOCGIFFLAGS, request))[1]
        if add & ~flags:
            fcntl.ioctl(end.fileno(), _SIOCSIFFLAGS, struct.pack(_REQUEST, name.encode(), flags | add))
    except OSError as error:
        fail(error.errno or 0, "set up interface" if add else "read flags of interface", name)
    finally:
        end.close()
    return flags
