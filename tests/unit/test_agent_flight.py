"""The flight recorder: what was asked last, over the agent's death; and what is done around a call."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from kata_agent import flight
from kata_agent.around import surround
from kata_agent.flight import SLOTS, Flight, describe, open_flight
from kata_protocols.status import Code, StatusError
from kata_testing.wire import outcome, run_async


@pytest.fixture
def recorder() -> Iterator[Flight]:
    made = Flight(os.memfd_create("flight"), os.memfd_create("crash"))
    yield made
    os.close(made.ring)
    os.close(made.crash)


def test_call_is_there_from_its_begin_and_complete_at_its_end(recorder: Flight) -> None:
    assert recorder.read() == []
    number = recorder.begin("CreateContainer", "c1")
    (call,) = recorder.read()
    assert (call.method, call.container_id, call.life, call.finished) == ("CreateContainer", "c1", 1, False)
    recorder.end(number, Code.INTERNAL, 5_000_999)
    (call,) = recorder.read()
    assert (call.finished, call.code, call.duration_us) == (True, 13, 5000)


def test_ring_keeps_the_newest_and_a_late_end_does_not_touch_another_call(recorder: Flight) -> None:
    first = recorder.begin("WaitProcess", "c1")
    for _ in range(SLOTS):
        recorder.begin("StartContainer", "c2")
    recorder.end(first, Code.OK, 1)
    calls = recorder.read()
    assert len(calls) == SLOTS
    assert not any(call.finished for call in calls)
    assert [call.number for call in calls] == list(range(2, SLOTS + 2))


def test_next_agent_goes_on_in_the_same_ring(recorder: Flight) -> None:
    recorder.begin("ExecProcess", "c" * 200)
    after = Flight(recorder.ring, recorder.crash, life=2)
    after.end(after.begin("Version", ""), Code.OK, 0)
    assert [(call.life, call.number, call.finished) for call in after.read()] == [(1, 1, False), (2, 2, True)]
    assert after.read()[0].container_id == "c" * 76
    assert describe(after.read(), 2) == f"ExecProcess {'c' * 76} (under way); Version (0 us)"


def test_ring_of_another_s_making_is_not_believed(recorder: Flight) -> None:
    os.pwrite(recorder.ring, b"\xff" * 333, 0)
    assert all(isinstance(call.method, str) for call in recorder.read())


CRASH = """
import os, sys
from kata_agent.flight import open_flight
flight = open_flight((int(sys.argv[1]), int(sys.argv[2])), int(sys.argv[3]))
print(flight.last_crash)
sys.stdout.flush()
def here():
    os.abort()
here() if sys.argv[4] == "abort" else None
"""


def test_stacks_of_a_fatal_signal_reach_the_next_life_alone(recorder: Flight) -> None:
    def live(number: int, end: str) -> str:
        fds = (str(recorder.ring), str(recorder.crash))
        done = subprocess.run(
            [sys.executable, "-c", CRASH, *fds, str(number), end],
            pass_fds=(recorder.ring, recorder.crash),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == (-6 if end == "abort" else 0), done.stderr
        return done.stdout

    assert live(1, "abort") == "\n"
    told = live(2, "well")
    assert "Aborted" in told
    assert "in here" in told
    assert live(3, "well") == "\n"


def test_recorder_is_made_where_none_was_kept() -> None:
    made = open_flight((), 1)
    made.end(made.begin("Version", ""), Code.OK, 0)
    assert len(made.read()) == 1
    late = made.begin("WaitProcess", "c1")
    made.close()
    made.end(late, Code.CANCELLED, 0)  # the descriptor may be somebody else's by now
    made.end(made.begin("WaitProcess", "c1"), Code.OK, 0)


def test_crash_file_stays_bounded(recorder: Flight) -> None:
    os.write(recorder.crash, b"x" * (flight.CRASH_LIMIT_BYTES + 1))
    Flight(recorder.ring, recorder.crash, life=2).take_crash()
    import faulthandler

    faulthandler.disable()
    assert os.fstat(recorder.crash).st_size < flight.CRASH_LIMIT_BYTES


class Ends:
    """Hears of begins and ends."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def begin(self, request: Any, _call: Any) -> Any:
        self.heard.append(("begin", str(request)))
        return lambda code, text: self.heard.append((code.name, text))


async def answer(request: str) -> str:
    if request == "fail":
        raise StatusError(Code.NOT_FOUND, "gone")
    if request == "hang":
        await asyncio.get_running_loop().create_future()
    return request


async def stream(request: str) -> AsyncGenerator[str, None]:
    yield request
    if request == "fail":
        raise StatusError(Code.NOT_FOUND, "gone")


@pytest.mark.parametrize(
    ("request_text", "end"),
    [("fine", ("OK", "")), ("fail", ("NOT_FOUND", "gone")), ("hang", ("CANCELLED", ""))],
)
def test_end_of_a_coroutine_is_heard_once(request_text: str, end: tuple[str, str]) -> None:
    ends = Ends()

    async def body() -> None:
        called = surround(lambda request, _: answer(request), ends.begin)(request_text, None)
        async with asyncio.TaskGroup() as group:
            work = group.create_task(outcome(called))
            await asyncio.sleep(0)
            if request_text == "hang":
                work.cancel()

    run_async(body())
    assert ends.heard[0] == ("begin", request_text)
    assert [heard[0] for heard in ends.heard[1:]] == [end[0]]


def test_end_of_a_plain_answer_and_of_a_stream_is_heard() -> None:
    ends = Ends()
    assert surround(lambda request, _: request, ends.begin)("plain", None) == "plain"

    async def body() -> None:
        async with aclosing(
            surround(lambda request, _: stream(request), ends.begin)("all", None)
        ) as messages:
            assert [message async for message in messages] == ["all"]
        async with aclosing(
            surround(lambda request, _: stream(request), ends.begin)("part", None)
        ) as messages:
            assert await anext(messages) == "part"
        failing = surround(lambda request, _: stream(request), ends.begin)("fail", None)
        async with aclosing(failing):
            assert await anext(failing) == "fail"
            with pytest.raises(StatusError):
                await anext(failing)

    run_async(body())
    assert [code for code, _ in ends.heard if code != "begin"] == ["OK", "OK", "CANCELLED", "NOT_FOUND"]


def test_a_raised_refusal_is_heard_and_passes_on() -> None:
    ends = Ends()

    def refuse(_request: Any, _call: Any) -> None:
        raise StatusError(Code.PERMISSION_DENIED, "no")

    with pytest.raises(StatusError):
        surround(refuse, ends.begin)("x", None)
    assert ends.heard == [("begin", "x"), ("PERMISSION_DENIED", "no")]
