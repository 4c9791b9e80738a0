"""A client that vanishes: what only waited for it ends, everything else finishes, nothing is left."""

from __future__ import annotations

import os
import socket

import pytest

from kata_protocols.aio import connection
from kata_protocols.status import Code
from kata_protocols.ttrpc.events import ResponseReceived
from kata_testing.wire import HEALTH, Health, check_frame, run_async, served

WAIT = b"\x0a\x04wait"


@pytest.mark.parametrize("cancel_on_disconnect", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_a_handler_is_cancelled_only_if_it_is_marked(cancel_on_disconnect: bool, reset: bool) -> None:
    async def scenario() -> None:
        health = Health()
        before = len(os.listdir("/proc/self/fd"))
        async with served(health.router(cancel_on_disconnect=cancel_on_disconnect)) as here:
            with here.raw() as raw:
                await raw.send(raw.codec.send_request(HEALTH.name, "Version", WAIT)[1])
                await health.wait_started(1)
                if not reset:
                    raw.sock.shutdown(socket.SHUT_WR)
                    if cancel_on_disconnect:
                        await health.ended.wait()
            if cancel_on_disconnect:
                await health.ended.wait()
                assert (health.cancelled, health.finished) == (1, 0)
            else:
                with here.raw() as other:  # two round trips: the server has seen the end by then
                    for _ in range(2):
                        await other.send(check_frame(other.codec))
                        await other.event()
                assert (health.cancelled, health.finished) == (0, 0)
                health.release.set()
                await health.ended.wait()
                assert (health.cancelled, health.finished) == (0, 1)
            assert here.errors == []
        assert len(os.listdir("/proc/self/fd")) == before

    run_async(scenario())


def test_a_call_cancelled_before_its_first_step_leaves_nothing() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router(cancel_on_disconnect=True)) as here:
            with here.raw() as raw:
                await raw.send(raw.codec.send_request(HEALTH.name, "Version", WAIT)[1])
                raw.sock.shutdown(socket.SHUT_WR)
                assert await raw.receive() == b""
            with here.raw() as other:
                await other.send(check_frame(other.codec))
                assert isinstance(await other.event(), ResponseReceived)

    run_async(scenario())


def test_other_connections_go_on() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router(cancel_on_disconnect=True)) as here:
            with here.raw() as stays:
                await stays.send(stays.codec.send_request(HEALTH.name, "Version", WAIT)[1])
                with here.raw() as goes:
                    await goes.send(goes.codec.send_request(HEALTH.name, "Version", WAIT)[1])
                    await health.wait_started(2)
                await health.ended.wait()
                assert health.cancelled == 1
                health.release.set()
                assert await stays.event() == ResponseReceived(1, 0, "", (), b"\x0a\x06waited")

    run_async(scenario())


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CALLS", 100)
    monkeypatch.setattr(connection, "PROBE_S", 0.02)


@pytest.mark.usefixtures("few_calls")
def test_a_vanished_client_is_noticed_while_nothing_is_read_from_it() -> None:

    async def scenario() -> None:
        health = Health()
        async with served(health.router(cancel_on_disconnect=True)) as here:
            with here.raw() as raw:
                for _ in range(connection.MAX_CALLS + 10):
                    await raw.send(raw.codec.send_request(HEALTH.name, "Version", WAIT)[1])
                await health.wait_started(connection.MAX_CALLS)
            await health.wait_cancelled(connection.MAX_CALLS)

    run_async(scenario())


@pytest.mark.usefixtures("few_calls")
def test_calls_beyond_the_bound_wait_for_earlier_ones() -> None:

    async def scenario() -> None:
        health = Health()
        async with served(health.router()) as here:
            with here.raw() as raw:
                blob = b"".join(
                    raw.codec.send_request(HEALTH.name, "Version", WAIT)[1]
                    for _ in range(connection.MAX_CALLS)
                )
                await raw.send(blob + check_frame(raw.codec))
                await health.wait_started(connection.MAX_CALLS)
                with here.raw() as other:  # the server is alive for others, and has had time to misbehave
                    await other.send(check_frame(other.codec))
                    assert isinstance(await other.event(), ResponseReceived)
                with pytest.raises(BlockingIOError):
                    raw.sock.recv(1)
                health.release.set()
                codes = set()
                for _ in range(connection.MAX_CALLS + 1):
                    event = await raw.event()
                    assert isinstance(event, ResponseReceived)
                    codes.add(event.code)
                assert codes == {Code.OK}

    run_async(scenario())
