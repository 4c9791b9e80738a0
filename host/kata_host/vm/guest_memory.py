"""The memory of a guest as a file: found at its QEMU, copied without its zeros.

Owns: which of QEMU's descriptors is the memory, and copies that have holes where nothing was written. Must not know:
what a copy is for. Follows proc_pid_fd(5), memfd_create(2) and lseek(2) (SEEK_DATA).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from kata_host.vm.base import VmError

PIECE_BYTES = 1 << 20
LOADED_BYTES = 16 << 20
_PAGE_BYTES = 4096
# What QEMU calls every memory of kind memfd, and what we call a copy's.
_COPY = "guest-memory"
_LINKS = ("/memfd:memory-backend-memfd", f"/memfd:{_COPY}")


def open_memory(pid: int, size: int) -> int:
    """A descriptor of the memory of the machine whose QEMU is `pid`, read only. VmError: not one shared memory."""
    folder = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}").startswith(_LINKS):
                found.append(f"{folder}/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile: the memory never is
    if len(found) != 1:
        raise VmError(
            f"qemu (process {pid}) has {len(found)} memories that can be copied, and a machine that is saved must have "
            "one; unplug what was plugged"
        )
    fd = os.open(found[0], os.O_RDONLY | os.O_CLOEXEC)
    if (there := os.fstat(fd).st_size) != size:
        os.close(fd)
        raise VmError(f"{found[0]}: {there} bytes, and the machine was started with {size}")
    return fd


def load_memory(path: Path, stopped: threading.Event) -> FileIO:
    """A copy of a saved memory that is nobody else's, in memory that processes can share. Raises OSError."""
    copy = FileIO(os.memfd_create(_COPY, os.MFD_CLOEXEC), "r+")
    try:
        with path.open("rb") as source:
            _load(source.fileno(), copy.fileno(), stopped)
    except BaseException:
        copy.close()
        raise
    return copy


def copy_memory(source: int, target: int, stopped: threading.Event) -> int:
    """Copy all that is not zero: the target, an empty file, has holes elsewhere. Bytes copied; raises OSError.

    It ends early when it is told that nobody wants the copy any more.
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    copied = 0
    for start, end in find_data(source, size):
        for offset in range(start, end, PIECE_BYTES):
            if stopped.is_set():
                return copied
            copied += _copy_piece(source, target, offset, min(PIECE_BYTES, end - offset))
    return copied


def _load(source: int, target: int, stopped: threading.Event) -> None:
    """What was saved has its holes already."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for start, end in find_data(source, size):
        os.lseek(target, start, os.SEEK_SET)
        while start < end and not stopped.is_set():
            start += os.sendfile(target, source, start, min(end - start, LOADED_BYTES))


def find_data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (start, end)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # a hole to the end
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def find_used(data: bytes) -> Iterator[tuple[int, int]]:
    """The runs of pages that are not all zero, as (start, end). Pure."""
    zero = bytes(_PAGE_BYTES)
    begin = None
    for at in range(0, len(data), _PAGE_BYTES):
        used = data[at : at + _PAGE_BYTES] != zero[: len(data) - at]
        if used and begin is None:
            begin = at
        elif not used and begin is not None:
            yield begin, at
            begin = None
    if begin is not None:
        yield begin, len(data)


def _copy_piece(source: int, target: int, offset: int, length: int) -> int:
    data = os.pread(source, length, offset)
    written = 0
    for start, end in find_used(data):
        view = memoryview(data)[start:end]
        while view:
            done = os.pwrite(target, view, offset + end - len(view))
            written += done
            view = view[done:]
    return written
