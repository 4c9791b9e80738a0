"""Netlink sockets and attributes: netlink(7), Documentation/userspace-api/netlink/intro.rst.

Owns: the framing of messages, dumps and the kernel's answers with their extended acknowledgement.
Must not know: which family's messages these are (`rtnetlink` does for routes, links and addresses). Decision 0070 says
why this is not pyroute2.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from kata_linux.netlink_attribute import text, unpack_attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVTIMEO = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_DUMP_INTR = 0x10
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16  # the parts of a dump are at most 32 KiB
_DUMP_ATTEMPTS = 8


class Refused(OSError):
    """The kernel refused a request; `detail` is its extended acknowledgement, empty when it gave none."""

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(number, os.strerror(number))
        self.detail = detail


class Netlink:
    """One socket of a netlink family, in the network namespace of the calling thread. Use it as a context."""

    def __init__(self, family: int, timeout_s: float) -> None:
        """`timeout_s` bounds the wait for each answer; then requests raise `TimeoutError`."""
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, family)
        self._number = 0
        self._set_timeout(timeout_s)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, payload: bytes) -> None:
        """Ask for a change and wait for the kernel's word. Raises `Refused`."""
        self._send(kind, flags | NLM_F_ACK, payload)
        for _ in self._iterate_answers():
            pass

    def dump(self, kind: int, payload: bytes) -> list[tuple[int, bytes]]:
        """Every object of a kind, as (type, payload). A dump that changed while it was read is read again."""
        for _ in range(_DUMP_ATTEMPTS):
            self._send(kind, NLM_F_DUMP, payload)
            answers = list(self._iterate_answers())
            if not any(flags & _NLM_F_DUMP_INTR for _, flags, _ in answers):
                return [(found, body) for found, _, body in answers]
        raise Refused(errno.EINTR, f"the dump changed {_DUMP_ATTEMPTS} times while it was read")

    def _set_timeout(self, timeout_s: float) -> None:
        microseconds = max(int(timeout_s * 1_000_000), 1)  # 0 would be no limit
        interval = struct.pack("@ll", *divmod(microseconds, 1_000_000))
        self._socket.setsockopt(_socket.SOL_SOCKET, _SO_RCVTIMEO, interval)

    def _send(self, kind: int, flags: int, payload: bytes) -> None:
        self._number += 1
        length = _HEADER.size + len(payload)
        self._socket.sendto(
            _HEADER.pack(length, kind, flags | NLM_F_REQUEST, self._number, 0) + payload, (0, 0)
        )

    def _iterate_answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and payload of each answer to the last request, until the one that ends them."""
        while True:
            for kind, flags, number, body in split_messages(self._receive()):
                if number != self._number:
                    continue  # the rest of a request that was given up
                if kind == _NLMSG_ERROR:
                    check_error(flags, body)
                    return
                if kind == _NLMSG_DONE:
                    check_done(flags, body)
                    return
                yield kind, flags, body

    def _receive(self) -> bytes:
        try:
            data, _, flags, sender = self._socket.recvmsg(_RECEIVE_BYTES)
        except BlockingIOError:
            raise TimeoutError(
                errno.ETIMEDOUT, "netlink: the kernel did not answer: " + os.strerror(errno.ETIMEDOUT)
            ) from None
        if flags & _socket.MSG_TRUNC:
            raise Refused(errno.EMSGSIZE, "the answer is longer than this side reads")
        return b"" if sender[0] else data  # only the kernel has port 0


def split_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, number and payload of each message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, number, data[offset + _HEADER.size : offset + length]
        offset += length + 3 & ~3


def check_error(flags: int, body: bytes) -> None:
    """Raise `Refused` unless this NLMSG_ERROR acknowledges. NETLINK_CAP_ACK leaves out the request's payload."""
    number = -int.from_bytes(body[:4], "little", signed=True)
    if number:
        raise Refused(number, _detail(body[4 + _HEADER.size :] if flags & _NLM_F_ACK_TLVS else b""))


def check_done(flags: int, body: bytes) -> None:
    """Raise `Refused` when a dump ended early."""
    number = -int.from_bytes(body[:4], "little", signed=True)
    if number > 0:
        raise Refused(number, _detail(body[4:] if flags & _NLM_F_ACK_TLVS else b""))


def _detail(attributes: bytes) -> str:
    return text(unpack_attributes(attributes).get(_NLMSGERR_ATTR_MSG, b""))
