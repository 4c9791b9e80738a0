"""Moves bytes between this process's standard streams and a container's.

Terminals and pipes are waited for on the event loop; regular files cannot be and never block for long.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from kata_host.streams import WRITE_BYTES
from kata_protocols.status import StatusError

# A pipe that polls as writable takes this much without blocking (PIPE_BUF).
_PIECE_BYTES = 4096


async def _wait_ready(fd: int, add: Callable[..., None], remove: Callable[[int], object]) -> None:
    ready = asyncio.Event()
    try:
        add(fd, ready.set)
    except PermissionError:
        return  # epoll refuses regular files, which are always ready
    try:
        await ready.wait()
    finally:
        remove(fd)


async def read_ready(fd: int, limit: int) -> bytes:
    """Read what is there, waiting for it; empty at the end of input."""
    loop = asyncio.get_running_loop()
    while True:
        await _wait_ready(fd, loop.add_reader, loop.remove_reader)
        try:
            return os.read(fd, limit)
        except BlockingIOError:
            continue


async def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` without ever blocking the event loop on a slow reader."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        await _wait_ready(fd, loop.add_writer, loop.remove_writer)
        try:
            view = view[os.write(fd, view[:_PIECE_BYTES]) :]
        except BlockingIOError:
            continue


async def copy_out(source: AsyncIterator[bytes], fd: int) -> None:
    """Write a process's output as it comes."""
    async for data in source:
        await write_all(fd, data)


class Input(Protocol):
    """Where input goes: a process by calls, or a connection of its own."""

    async def write_stdin(self, data: bytes) -> None:
        """Write all of it."""

    async def close_stdin(self) -> None:
        """No more will come."""


async def copy_in(fd: int, process: Input) -> None:
    """Feed a process until our own input ends; one that does not want it any more is no error."""
    try:
        while data := await read_ready(fd, WRITE_BYTES):
            await process.write_stdin(data)
        await process.close_stdin()
    except (StatusError, BrokenPipeError, ConnectionResetError):
        return  # the process has ended, or closed its input: its exit status tells the rest
