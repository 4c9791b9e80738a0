"""Device events of the kernel: netlink(7), NETLINK_KOBJECT_UEVENT.

Owns: the socket, the form of a message, and noticing that messages were lost. Must not know: which devices matter.
Only the kernel's own messages count: others in the guest may send to the group, too.
"""

from __future__ import annotations

import _socket
import errno
import time

from kata_linux.record import Record

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 8192  # the kernel's messages are at most 2 KiB of properties and a path
_BUFFER_BYTES = 1 << 20  # the kernel's default holds some 200 messages; a disk with partitions is ten
_AT_ONCE = 256


class Uevent(Record):
    """One message. `devpath` is the device's folder below /sys; `time_ns` is CLOCK_MONOTONIC when it was read."""

    action: str
    devpath: str
    subsystem: str
    properties: dict[str, str]
    time_ns: int = 0


class UeventSocket:
    """Hears of every device of the guest from its making on. Never blocks."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(_socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            pass  # without CAP_NET_ADMIN it stays small, and an overflow is noticed
        self._socket.bind((0, _KERNEL_GROUP))

    def fileno(self) -> int:
        """The descriptor, which polls readable when there is a message."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def read(self) -> tuple[list[Uevent], bool]:
        """The messages that wait, at most 256 of them, and whether some before them were lost."""
        events: list[Uevent] = []
        lost = False
        for _ in range(_AT_ONCE):
            try:
                data, sender = self._socket.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            event = parse_uevent(data, time.monotonic_ns()) if sender[0] == 0 else None
            if event is not None:
                events.append(event)
        return events, lost


def parse_uevent(data: bytes, time_ns: int = 0) -> Uevent | None:
    """`add@/devices/...` and `KEY=value` items, each ended by NUL; None for what the kernel does not send. Pure."""
    head, *items = data.decode(errors="replace").split("\0")
    if "@" not in head:
        return None  # udev's own form, for one
    properties = {}
    for item in items:
        key, equals, value = item.partition("=")
        if equals:
            properties[key] = value
    action, _, path = head.partition("@")
    return Uevent(
        properties.get("ACTION", action),
        properties.get("DEVPATH", path),
        properties.get("SUBSYSTEM", ""),
        properties,
        time_ns,
    )
