"""Streams on their way where the kernel refuses to splice: the same bytes, the same end, by read and write."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket

import pytest

from kata_agent.processes.copying import Copy
from kata_testing.wire import run_async

DATA = random.Random(1).randbytes(3 << 20)  # noqa: S311 - the same bytes every time


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a socket; between two sockets no splice(2) goes, one side must be a pipe."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def test_the_kernel_refuses_what_these_tests_are_about():
    one, two = pair()
    with one, two, pytest.raises(OSError, match="Invalid argument") as caught:
        os.splice(one.fileno(), two.fileno(), 1)
    assert caught.value.errno == errno.EINVAL


async def receive_all(end: socket.socket) -> bytes:
    pieces = []
    while piece := await asyncio.get_running_loop().sock_recv(end, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("inward", [False, True], ids=["out", "in"])
def test_every_byte_arrives_in_order_and_the_end_after_it(inward):
    async def body():
        done = []
        process, end = pair()
        host, connection = pair()
        source, sink = (host, process) if inward else (process, host)
        with process, host:
            copy = Copy(end.detach(), connection, inward=inward, on_done=lambda: done.append(True))
            copy.start()

            async def send() -> None:
                await asyncio.get_running_loop().sock_sendall(source, DATA)
                source.shutdown(socket.SHUT_WR)

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                seen = group.create_task(
                    receive_all(sink)
                )  # later than the buffers are full: pressure goes back
            assert seen.result() == DATA
            await copy.wait_done()
            assert done == [True]

    run_async(body())


def test_what_waited_when_the_process_ended_still_goes_and_nothing_later():
    async def body():
        process, end = pair()
        host, connection = pair()
        with process, host:
            copy = Copy(end.detach(), connection, inward=False, on_done=lambda: None)
            copy.start()
            process.send(b"before")
            copy.process_ended()
            with pytest.raises(BrokenPipeError):
                process.send(b"after")
            await copy.wait_done()
            assert await receive_all(host) == b"before"

    run_async(body())
