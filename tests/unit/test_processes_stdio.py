"""Plain streams: order of readers, the end, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
import os

import pytest

from kata_agent.errors import EndOfOutput, WrongState
from kata_agent.processes.stdio import Input, Pipes, PlainOutput
from kata_agent.processes.turn import Turn
from kata_testing.wire import outcome, run_async


class Pair:
    """An output and what its process would write to."""

    def __init__(self) -> None:
        source, self.sink = os.pipe()
        os.set_blocking(source, False)
        self.output = PlainOutput(source)

    def end(self) -> None:
        os.close(self.sink)
        self.output.close()


def test_data_that_waits_is_answered_without_waiting():
    pair = Pair()
    os.write(pair.sink, b"abc")
    assert pair.output.read(2) == b"ab"
    assert pair.output.read(2) == b"c"
    pair.end()


def test_readers_are_served_in_the_order_they_asked():
    async def body():
        pair = Pair()
        first = pair.output.read(1)
        os.write(pair.sink, b"abc")
        second, third = pair.output.read(1), pair.output.read(1)
        assert not isinstance(first, bytes)
        assert not isinstance(second, bytes)
        assert not isinstance(third, bytes)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(pending)) for pending in (first, second, third)]
        assert [task.result() for task in tasks] == [b"a", b"b", b"c"]
        os.write(pair.sink, b"d")
        assert pair.output.read(1) == b"d"
        pair.end()

    run_async(body())


def test_a_cancelled_reader_lets_the_next_one_read():
    async def body():
        pair = Pair()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(outcome(pair.output.read(9)))
            second = group.create_task(outcome(pair.output.read(9)))
            await asyncio.sleep(0)
            os.write(pair.sink, b"data")
            first.cancel()
        assert second.result() == b"data"
        pair.end()

    run_async(body())


def test_a_reader_that_is_cancelled_in_the_turn_in_which_it_is_passed_over_is_cancelled_and_no_more():
    async def body():
        turn = Turn()
        assert turn.try_take()
        async with asyncio.TaskGroup() as group:
            gone, here = group.create_task(turn.take()), group.create_task(turn.take())
            await asyncio.sleep(0)
            gone.cancel()
            turn.release()
            await here
        assert gone.cancelled()
        turn.release()
        assert turn.try_take(), "it is nobody's"

    run_async(body())


def test_an_open_pipe_ends_when_its_process_has_and_pending_data_goes_first():
    async def body():
        pair = Pair()
        os.write(pair.sink, b"last")
        pair.output.process_ended()
        assert pair.output.read(9) == b"last"
        with pytest.raises(EndOfOutput, match="eof"):
            pair.output.read(9)
        os.write(pair.sink, b"from a grandchild")
        assert pair.output.read(99) == b"from a grandchild"
        pair.end()

    run_async(body())


def test_a_waiting_reader_ends_with_the_process():
    async def body():
        pair = Pair()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(outcome(pair.output.read(9)))
            await asyncio.sleep(0)
            pair.output.process_ended()
        assert isinstance(reader.result(), EndOfOutput)
        pair.end()

    run_async(body())


def test_a_closed_stream_wakes_its_reader_with_the_end():
    async def body():
        pair = Pair()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(outcome(pair.output.read(9)))
            await asyncio.sleep(0)
            pair.output.close()
        assert isinstance(reader.result(), EndOfOutput)
        os.close(pair.sink)

    run_async(body())


def test_an_empty_pipe_that_nobody_holds_is_closed_with_its_process():
    closed = []
    source, sink = os.pipe()
    output = PlainOutput(source, on_close=lambda: closed.append(True))
    os.close(sink)
    output.process_ended()
    assert closed == [True]
    with pytest.raises(EndOfOutput, match="eof"):
        output.read(1)


def test_a_write_is_whole_before_it_returns_and_writers_take_turns():
    async def body():
        source, sink = os.pipe()
        os.set_blocking(sink, False)
        stdin = Input(sink)
        first, second = b"a" * 200000, b"b" * 10
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stdin.write(data)) for data in (first, second)]
            await asyncio.sleep(0)
            assert not tasks[0].done()
            got = b""
            while len(got) < 200010:
                got += await asyncio.to_thread(os.read, source, 65536)
        assert got == first + second
        assert [task.result() for task in tasks] == [200000, 10]
        stdin.close()
        os.close(source)

    run_async(body())


def test_empty_data_ends_the_input_and_later_writes_are_refused():
    async def body():
        source, sink = os.pipe()
        stdin = Input(sink)
        assert await stdin.write(b"") == 0
        assert os.read(source, 1) == b""
        stdin.end()
        with pytest.raises(WrongState, match="Cannot get writer"):
            await stdin.write(b"x")
        os.close(source)

    run_async(body())


def test_a_writer_that_waits_learns_of_the_close():
    async def body():
        source, sink = os.pipe()
        os.set_blocking(sink, False)
        stdin = Input(sink)
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(outcome(stdin.write(bytes(100000))))
            await asyncio.sleep(0)
            stdin.close()
        assert isinstance(writer.result(), WrongState)
        os.close(source)

    run_async(body())


def test_a_write_nobody_will_read_says_so():
    async def body():
        source, sink = os.pipe()
        os.close(source)
        stdin = Input(sink)
        with pytest.raises(BrokenPipeError, match="write stdin"):
            await stdin.write(b"x")
        stdin.close()

    run_async(body())


def test_pipes_that_cannot_be_sized_leave_nothing_open():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        Pipes((1 << 31) + 1)
    assert len(os.listdir("/proc/self/fd")) == before
