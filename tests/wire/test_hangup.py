"""Who hangs up with bytes unread is heard as an end, not as a reset, which a VMM's vsock device may lose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from kata_protocols.aio.client import Client
from kata_protocols.aio.hangup import hang_up, hanging_up
from kata_testing.wire import run_async

UNREAD = bytes(100_000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(60)
        yield ours, theirs


def test_a_plain_close_resets_the_peer(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(UNREAD)
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)


def test_hanging_up_with_bytes_unread_is_an_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(UNREAD)
    with hanging_up(ours):
        ours.send(b"last words")
    assert ours.fileno() < 0
    assert theirs.recv(100) == b"last words"
    assert theirs.recv(1) == b""


def test_hanging_up_on_a_peer_that_is_gone_is_no_error(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.send(UNREAD)
    theirs.close()
    hang_up(ours)
    assert ours.fileno() < 0


def test_a_client_that_closes_with_an_answer_unread_is_heard_to_end(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def body() -> None:
        ours, theirs = pair
        client = Client(ours)
        theirs.send(UNREAD)
        await client.aclose()
        assert await asyncio.to_thread(theirs.recv, 1) == b""

    run_async(body())
