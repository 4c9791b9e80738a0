"""Device-mapper: the ioctls of /dev/mapper/control, one function for each step of a device's life.

Owns: the requests' layout (linux/dm-ioctl.h, version 4) and the nodes below /dev/mapper, which nobody else makes in a
guest without udev. Must not know: what a target's parameters mean. A device is made (`create`), gets a table of one
target (`load`), goes live (`resume`) and ends (`remove`). Errors to expect: ENOENT (device-mapper is not in this
kernel, or its module dm-mod not loaded), EBUSY (the name is taken; the device is in use), EINVAL (the target refuses
its parameters, the kernel log says why), ENXIO (no device of that name).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from kata_linux._libc import fail

FOLDER = "/dev/mapper"
CONTROL = f"{FOLDER}/control"
NAME_LIMIT_BYTES = 127
SECTOR_BYTES = 512

# version, data_size, data_start, target_count, open_count, flags, event_nr, dev, name, uuid
_HEAD = struct.Struct("=3I3IiII4xQ128s129s7x")
# sector_start, length, status, next, target_type; the parameters follow as a C string
_TARGET = struct.Struct("=QQiI16s")
_VERSION = (4, 0, 0)
_CREATE, _REMOVE, _SUSPEND, _LOAD, _STATUS = 3, 4, 6, 9, 12
_NAMES = {_CREATE: "create", _REMOVE: "remove", _SUSPEND: "resume", _LOAD: "load table", _STATUS: "status"}
_READ_ONLY = 1
_DEFERRED_REMOVE = 1 << 17
_ANSWER_BYTES = 4096


def create(name: str) -> str:
    """Make a device without a table; gives its node, which is made too. EBUSY: there is one of this name."""
    if not name or len(name.encode()) > NAME_LIMIT_BYTES or "/" in name:
        raise ValueError(f"{name!r} is no device-mapper name: 1 to {NAME_LIMIT_BYTES} bytes without /")
    device = _request(_CREATE, name)[0]
    try:
        return _make_node(name, device)
    except OSError:
        _request(_REMOVE, name)
        raise


def load(name: str, target: str, sectors: int, parameters: str, *, read_only: bool = True) -> None:
    """Give the device its table: one target over its whole length, in sectors of 512 bytes."""
    text = parameters.encode() + b"\0"
    text += b"\0" * (-len(text) % 8)
    payload = _TARGET.pack(0, sectors, 0, _TARGET.size + len(text), target.encode()) + text
    _request(_LOAD, name, payload, flags=_READ_ONLY if read_only else 0)


def resume(name: str) -> None:
    """Make the loaded table the one in use."""
    _request(_SUSPEND, name)  # a suspend without its flag


def read_status(name: str) -> str:
    """What the target says about itself: for verity `V`, or `C` once something was found corrupted."""
    answer = _request(_STATUS, name, bytes(_ANSWER_BYTES - _HEAD.size))[1]
    return answer[_TARGET.size :].partition(b"\0")[0].decode(errors="replace")


def remove(name: str) -> None:
    """End the device and its node; one that is still open or mounted somewhere goes with its last user. ENXIO: none."""
    _request(_REMOVE, name, flags=_DEFERRED_REMOVE)
    try:
        os.unlink(f"{FOLDER}/{name}")
    except FileNotFoundError:
        pass


def _make_node(name: str, device: int) -> str:
    node = f"{FOLDER}/{name}"
    try:
        os.unlink(node)  # of a device that somebody else ended
    except FileNotFoundError:
        pass
    os.mknod(node, stat.S_IFBLK | 0o600, device)
    return node


def _request(command: int, name: str, payload: bytes = b"", *, flags: int = 0) -> tuple[int, bytes]:
    """One ioctl; gives the device's number and what came back behind the head."""
    number = (3 << 30) | (_HEAD.size << 16) | (0xFD << 8) | command
    size = _HEAD.size + len(payload)
    head = _HEAD.pack(*_VERSION, size, _HEAD.size, 1 if payload else 0, 0, flags, 0, 0, name.encode(), b"")
    buffer = bytearray(head + payload)
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, number, buffer, True)  # noqa: FBT003 - the buffer is written to
    except OSError as error:
        fail(error.errno or 0, f"device-mapper {_NAMES[command]}", name)
    finally:
        os.close(fd)
    return _HEAD.unpack_from(buffer)[9], bytes(buffer[_HEAD.size :])
