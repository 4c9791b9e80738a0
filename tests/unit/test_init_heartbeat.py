"""When PID 1 asks the agent, when it calls it silent, and that an idle guest wakes up no more often than that."""

from __future__ import annotations

from kata_init.heartbeat import Heartbeat

SECOND = 1_000_000_000


def test_it_asks_once_an_interval_and_nothing_before_the_agent_is_ready() -> None:
    beat = Heartbeat(10 * SECOND, 15 * SECOND)
    assert beat.next_ns() is None
    assert not beat.is_due(100 * SECOND)
    beat.start(0)
    assert beat.next_ns() == 10 * SECOND
    assert not beat.is_due(9 * SECOND)
    assert beat.is_due(10 * SECOND)
    assert not beat.is_due(11 * SECOND), "one question is under way"
    assert beat.answer(12 * SECOND) is None
    assert beat.next_ns() == 22 * SECOND


def test_a_silent_agent_is_told_once_and_its_answer_says_how_late_it_was() -> None:
    beat = Heartbeat(10 * SECOND, 15 * SECOND)
    beat.start(0)
    assert beat.is_due(10 * SECOND)
    assert beat.next_ns() == 25 * SECOND
    assert not beat.is_silent(24 * SECOND)
    assert beat.is_silent(25 * SECOND)
    assert not beat.is_silent(90 * SECOND)
    assert beat.next_ns() is None, "nobody wakes up for an agent that was called silent"
    assert beat.answer(100 * SECOND) == 90 * SECOND
    assert beat.next_ns() == 110 * SECOND


def test_an_agent_that_ended_is_asked_nothing() -> None:
    beat = Heartbeat(10 * SECOND, 15 * SECOND)
    beat.start(0)
    assert beat.is_due(10 * SECOND)
    beat.stop()
    assert not beat.is_silent(100 * SECOND)
    assert beat.next_ns() is None


def test_an_interval_of_none_asks_never() -> None:
    beat = Heartbeat(0, 15 * SECOND)
    beat.start(0)
    assert beat.next_ns() is None
    assert not beat.is_due(100 * SECOND)
