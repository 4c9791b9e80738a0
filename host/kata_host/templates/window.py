"""Where a pool hands machines out: a unix socket in its private folder, and the few words that are spoken there.

taker connects pool {"name": "NAME"} and two descriptors pipes of a keeper whose machine stands still pool {"error":
"TEXT"} there is none taker {"leash": true, ...} into the first pipe: go on, with what the order of a copy has keeper
the machine's description, or {"error": "TEXT"}

A taker that goes away while it waits gets none. One that goes away later ends the machine, unless it has asked for one
without a leash and that runs already. Must not know: what an order says.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kata_host.templates.held import HeldVm, go_on
from kata_host.templates.pool import Pool, PoolError
from kata_host.vm.base import VmError

SOCKET = "pool.sock"
TAKE_TIMEOUT_S = 120.0
_LINE_BYTES = 4096
_BACKLOG = 64


def open_window(path: Path) -> socket.socket:
    """The listening socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    listener.settimeout(0)
    return listener


async def serve(listener: socket.socket, pool: Pool[HeldVm]) -> None:
    """Hand machines out until cancelled."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        while True:
            connection, _ = await loop.sock_accept(listener)
            group.create_task(_serve_one(connection, pool))


async def _serve_one(connection: socket.socket, pool: Pool[HeldVm]) -> None:
    with connection:
        connection.settimeout(0)
        try:
            member = await _take(connection, pool)
        except PoolError as error:
            _send(connection, {"error": str(error)})
            return
        if member is not None and _send(connection, {"name": member.name}, member.pipes):
            member.let_go()
        elif member is not None:
            await member.close()


async def _take(connection: socket.socket, pool: Pool[HeldVm]) -> HeldVm | None:
    """The next member; None when the taker has gone. Raises `PoolError`."""
    try:
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(pool.take())
            leaving = group.create_task(_wait_gone(connection))
            await asyncio.wait([taking, leaving], return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
            leaving.cancel()
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return None if taking.cancelled() else taking.result()


async def _wait_gone(connection: socket.socket) -> None:
    with suppress(ConnectionError):
        await asyncio.get_running_loop().sock_recv(connection, 1)


def _send(connection: socket.socket, words: Mapping[str, str], pipes: tuple[int, ...] = ()) -> bool:
    """Whether somebody was there to get it."""
    try:
        socket.send_fds(connection, [json.dumps(words).encode() + b"\n"], pipes)
    except ConnectionError:
        return False
    return True


@dataclass
class Taken:
    """A machine that stands still and is ours. Whoever closes it ends it, unless it goes on without a leash."""

    name: str
    order_fd: int
    report_fd: int

    async def go_on(self, order: Mapping[str, object]) -> dict[str, object]:
        """Let it go on; its description. Raises `VmError`."""
        return await go_on(self.name, (self.order_fd, self.report_fd), order)

    def close(self) -> None:
        """Give the pipes up."""
        for fd in (self.order_fd, self.report_fd):
            os.close(fd)


async def take(path: Path) -> Taken:
    """A machine of the pool that has this socket. Raises `VmError`."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0)
        try:
            await loop.sock_connect(connection, str(path))
            async with asyncio.timeout(TAKE_TIMEOUT_S):
                line, pipes = await _receive(connection)
        except TimeoutError:
            raise VmError(f"{path}: the pool had nothing to hand out for {TAKE_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise VmError(f"{path}: no pool answers there: {error.strerror or error}") from error
    try:
        words = json.loads(line)
        if "error" in words:
            raise VmError(str(words["error"]))
        order_fd, report_fd = pipes
        return Taken(str(words["name"]), order_fd, report_fd)
    except ValueError:
        for fd in pipes:
            os.close(fd)
        raise VmError(f"{path}: the pool ended") from None


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
    line, pipes, _, _ = socket.recv_fds(connection, _LINE_BYTES, 2)
    for fd in pipes:
        os.set_inheritable(fd, False)  # noqa: FBT003 - its own signature
    return line, list(pipes)
