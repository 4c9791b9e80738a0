"""A byte channel that is hung up on: its host may be followed by the next one before anybody looks."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Callable

import pytest

from kata_protocols.aio.port import MAX_EMPTY_RETURNS, Port
from kata_testing.wire import run_async


class Owner:
    """Notes what its port tells."""

    def __init__(self, fd: int) -> None:
        self.told: list[str] = []
        self.data = asyncio.Event()
        self.ended = asyncio.Event()
        self.port = Port(
            fd,
            on_data=self._hear,
            on_writable=lambda: None,
            on_interrupted=lambda: self.told.append("interrupted"),
            on_back=lambda: self.told.append("back"),
            on_end=lambda _error: self.ended.set(),
        )
        self.port.resume_reading()

    def _hear(self, data: bytes) -> None:
        self.told.append(data.decode())
        self.data.set()


def follow_at_once(monkeypatch: pytest.MonkeyPatch, follow: Callable[[], None]) -> None:
    """Let the next host come right after the end of the one before was read."""
    read = os.read

    def read_then_follow(fd: int, size: int) -> bytes:
        try:
            return read(fd, size)
        except OSError:
            follow()
            raise

    monkeypatch.setattr(os, "read", read_then_follow)


def test_a_host_that_is_followed_at_once_is_not_the_end_of_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: list[int] = []
    followed = asyncio.Event()

    async def scenario() -> None:
        master, slave = os.openpty()  # the master is the port: its other side can be opened again
        name = os.ttyname(slave)
        tty.setraw(slave)

        def follow() -> None:
            hosts.append(os.open(name, os.O_RDWR | os.O_NOCTTY))
            followed.set()

        follow_at_once(monkeypatch, follow)
        owner = Owner(master)
        os.close(slave)
        await followed.wait()
        os.write(hosts[0], b"next")
        await owner.data.wait()
        assert owner.told == ["interrupted", "back", "next"]
        assert not owner.ended.is_set()
        owner.port.close()
        os.close(hosts[0])

    run_async(scenario())


def test_a_device_that_has_nothing_but_ends_is_given_up() -> None:
    async def scenario() -> None:
        read_end, write_end = os.openpty()
        os.close(write_end)
        owner = Owner(read_end)
        owner.port._is_hung_up = lambda: False  # type: ignore[method-assign]
        await owner.ended.wait()
        assert owner.told == ["interrupted", "back"] * MAX_EMPTY_RETURNS
        owner.port.close()

    run_async(scenario())
