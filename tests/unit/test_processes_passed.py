"""Connections for streams: who may connect, how many wait, for how long, and what happens to those nobody takes."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from kata_agent.errors import NotFound
from kata_agent.log import Log
from kata_agent.processes import passed
from kata_agent.processes.passed import PassedConnections, port_of
from kata_testing.repository import ROOT
from kata_testing.wire import run_async

_names = itertools.count()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for comes; tests of what does not come have a time of their own."""
    monkeypatch.setattr(passed, "TAKE_S", 60.0)


class Keeper:
    """PID 1's store, by name."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.stored = asyncio.Event()

    def store(self, name, fds):
        self.held[name] = os.fstat(fds[0]).st_ino
        self.stored.set()

    def discard(self, name):
        self.held.pop(name, None)


class Place:
    """A listener with what it needs, and peers."""

    def __init__(self) -> None:
        self.name = f"\0kata-passed-{os.getpid()}-{next(_names)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.name)
        listener.listen(16)
        self.keeper = Keeper()
        self.passed = PassedConnections(listener, self.keeper, Log(os.open(os.devnull, os.O_WRONLY)), {})
        self.peers: list[socket.socket] = []

    def connect(self, port: int | None) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        self.peers.append(peer)
        if port is not None:
            peer.bind(f"{self.name}-peer:{port}")
        peer.connect(self.name)
        peer.setblocking(False)
        return peer

    async def accepted(self, count: int) -> None:
        """Until so many connections are kept."""
        while len(self.keeper.held) < count:
            self.keeper.stored.clear()
            await self.keeper.stored.wait()

    async def ended(self, peer: socket.socket) -> bool:
        return await asyncio.get_running_loop().sock_recv(peer, 1) == b""

    def end(self) -> None:
        self.passed.close()
        for peer in self.peers:
            peer.close()


def with_place(body):
    async def scenario() -> None:
        place = Place()
        try:
            await body(place)
        finally:
            place.end()

    run_async(scenario())


def test_a_port_is_the_hosts_alone_on_vsock_and_in_the_bound_name_on_unix():
    assert port_of((2, 5001)) == 5001
    assert port_of((1, 5001)) == port_of((3, 5001)) == 0, "a process of the guest must not pose as the host"
    assert port_of(b"\0anything:77") == 77
    assert port_of("") == port_of(b"\0nothing") == port_of("/path:77") == 0


def test_a_call_that_comes_first_waits_for_its_connections():
    async def body(place):
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(place.passed.take((7, 0, 9)))
            await asyncio.sleep(0)
            place.connect(9)
            place.connect(7)
        first, second, third = taking.result()
        assert (first is None, second is None, third is None) == (False, True, False)
        assert sorted(place.keeper.held) == ["passed/7", "passed/9"], "kept until they are kept elsewhere"
        place.passed.forget((7, 0, 9))
        assert not place.keeper.held
        first.close()
        third.close()

    with_place(body)


def test_the_oldest_goes_when_too_many_wait(monkeypatch):
    monkeypatch.setattr(passed, "LIMIT", 2)

    async def body(place):
        oldest = place.connect(1)
        place.connect(2)
        place.connect(3)
        assert await place.ended(oldest)
        assert sorted(place.keeper.held) == ["passed/2", "passed/3"]

    with_place(body)


def test_a_connection_that_nobody_asks_for_is_closed_in_time(monkeypatch):
    monkeypatch.setattr(passed, "UNCLAIMED_S", 0.01)

    async def body(place):
        assert await place.ended(place.connect(1))
        assert not place.keeper.held

    with_place(body)


def test_a_peer_without_a_port_is_refused():
    async def body(place):
        assert await place.ended(place.connect(None))

    with_place(body)


@pytest.mark.parametrize("late", [False, True])
def test_one_that_does_not_come_is_absent(monkeypatch, late):
    monkeypatch.setattr(passed, "TAKE_S", 0.01)

    async def body(place):
        assert await place.passed.take((1, 2)) == [None, None]
        if late:  # it comes after all: it waits for a call that asks again
            place.connect(1)
            monkeypatch.setattr(passed, "TAKE_S", 10)
            (found,) = await place.passed.take((1,))
            assert found is not None
            found.close()

    with_place(body)


def test_a_connection_is_found_by_the_token_that_it_begins_with_which_is_taken_off():
    async def body(place):
        token, other = b"t" * 16, b"o" * 32
        place.connect(3).send(b"t" * 15)  # cut: not it
        place.connect(4)  # silent
        async with asyncio.TaskGroup() as group:
            finding = [group.create_task(place.passed.find_port(each)) for each in (token, other)]
            await asyncio.sleep(0)
            late = place.connect(7)
            await place.accepted(3)
            late.send(token + b"rest")  # its first bytes come after it was accepted, with a call that waits
            place.connect(9).send(other)
        assert [task.result() for task in finding] == [7, 9]
        (connection,) = await place.passed.take((7,))
        assert connection.recv(9) == b"rest"
        connection.close()
        assert sorted(place.keeper.held) == [f"passed/{port}" for port in (3, 4, 7, 9)]

    with_place(body)


def test_a_token_that_no_connection_begins_with_is_told(monkeypatch):
    monkeypatch.setattr(passed, "TAKE_S", 0.01)

    async def body(place):
        place.connect(3).send(b"x" * 99)
        with pytest.raises(NotFound, match="begins with this token of 16 bytes"):
            await place.passed.find_port(b"t" * 16)
        (connection,) = await place.passed.take((3,))
        assert connection.recv(999) == b"x" * 99, "what is no token is the stream's"
        connection.close()

    with_place(body)


@pytest.mark.parametrize("by", ["port", "token"])
def test_a_connection_that_was_in_time_is_found_though_the_agent_was_late(monkeypatch, by):
    monkeypatch.setattr(passed, "TAKE_S", 0.01)

    async def body(place):
        def come_and_be_late() -> None:
            place.connect(7).send(b"t" * 16)
            time.sleep(0.05)  # noqa: TID251 - this is the agent that is late

        async with asyncio.TaskGroup() as group:
            work = place.passed.take((7,)) if by == "port" else place.passed.find_port(b"t" * 16)
            finding = group.create_task(work)
            # In the turn of the loop in which the search begins: the next one finds connection and deadline at once.
            asyncio.get_running_loop().call_soon(come_and_be_late)
        if by == "port":
            (connection,) = finding.result()
            assert connection is not None
            connection.close()
        else:
            assert finding.result() == 7

    with_place(body)


class Dying(Keeper):
    """A store that is never reached: the agent is killed between accepting a connection and having it kept."""

    def store(self, name, fds):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_connection_that_a_killed_agent_had_only_accepted_ends_and_its_host_can_dial_again():
    name = f"\0kata-passed-{os.getpid()}-{next(_names)}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as peer:
        listener.bind(name)
        listener.listen(16)
        peer.bind(f"{name}-peer:5")
        peer.connect(name)
        peer.settimeout(60)
        program = f"""
import asyncio, os, socket
from tests.unit.test_processes_passed import Dying
from kata_agent.log import Log
from kata_agent.processes.passed import PassedConnections
async def main():
    listener = socket.socket(fileno={listener.fileno()})
    PassedConnections(listener, Dying(), Log(os.open(os.devnull, os.O_WRONLY)), {{}})
    await asyncio.sleep(60)
asyncio.run(main())
"""
        died = subprocess.run(
            [sys.executable, "-c", program], pass_fds=(listener.fileno(),), cwd=ROOT, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        )  # fmt: skip
        assert died.returncode == -signal.SIGKILL
        assert peer.recv(1) == b"", "the host sees the end, and is not left to wait"
        peer.close()

        async def body() -> None:
            keeper = Keeper()
            passed = PassedConnections(listener.dup(), keeper, Log(os.open(os.devnull, os.O_WRONLY)), {})
            with socket.socket(socket.AF_UNIX) as again:
                again.bind(f"{name}-peer:5")
                again.connect(name)
                (connection,) = await passed.take((5,))
                assert connection is not None
                with connection:
                    again.send(b"goes on")
                    assert connection.recv(9) == b"goes on"
            passed.close()

        run_async(body())
