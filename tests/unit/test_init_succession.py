"""Which code the next agent runs: an upgrade's trial, the ways back, and what is told of them."""

from __future__ import annotations

import pytest

from kata_init.succession import FELL_BACK, PATIENCE, UPGRADED, Succession

DRAIN, READY = 5, 20


def upgraded(code: str = "/new", *, ready: bool = True) -> Succession:
    """An agent runs from `code` since time 100."""
    succession = Succession()
    succession.start(0)
    succession.ready()
    succession.plan(code, DRAIN, READY, 90)
    succession.end()
    succession.start(100)
    if ready:
        succession.ready()
    return succession


def test_without_an_upgrade_it_is_always_pid_1s_own_code_and_nothing_is_ever_due() -> None:
    succession = Succession()
    for _ in range(20):
        assert succession.start(0) == ""
        assert (succession.code, succession.next_ns(), succession.overdue(10**18)) == ("", None, "")
        assert succession.end() == ""
    assert succession.end(hopeless=True) == ""


def test_an_upgrade_begins_when_the_old_agent_has_ended_and_is_done_when_the_new_one_is_ready() -> None:
    succession = Succession()
    succession.start(0)
    assert not succession.ready()
    succession.plan("/new", DRAIN, READY, 90)
    assert (succession.code, succession.is_planned, succession.next_ns()) == ("", True, 95)
    assert succession.end() == ""
    assert succession.start(100) == UPGRADED
    assert (succession.code, succession.is_planned, succession.next_ns()) == ("/new", False, 120)
    assert succession.ready()
    assert succession.next_ns() is None
    assert succession.start(200) == "", "told once it was ready"


def test_an_old_agent_that_does_not_end_is_overdue_once_and_the_upgrade_goes_on() -> None:
    succession = Succession()
    succession.start(0)
    succession.plan("/new", DRAIN, READY, 90)
    assert succession.overdue(94) == ""
    assert succession.overdue(95) == "it did not end in time for the upgrade"
    assert succession.overdue(96) == ""
    succession.end()
    assert succession.start(100) == UPGRADED


@pytest.mark.parametrize("late", [True, False])
def test_a_new_agent_that_is_late_or_ends_is_followed_by_the_code_before(*, late: bool) -> None:
    succession = upgraded("/first")
    succession.plan("/second", DRAIN, READY, 190)
    succession.end()
    succession.start(200)
    assert succession.overdue(219) == ""
    if late:
        assert succession.overdue(220) == "it was not ready 2e-08 s after the upgrade"
    assert succession.end() == "/second"
    assert succession.start(221) == FELL_BACK
    assert (succession.code, succession.next_ns()) == ("/first", None)
    assert not succession.ready()


def test_an_upgraded_agent_that_was_ready_is_started_again_and_later_given_up_for_pid_1s_own() -> None:
    succession = upgraded("/new")
    for _ in range(PATIENCE):
        assert succession.end() == ""
        assert succession.start(300) == ""
        assert succession.code == "/new"
    assert succession.end() == "/new"
    assert succession.start(400) == FELL_BACK
    assert succession.code == ""


def test_an_upgraded_agent_that_cannot_go_on_is_given_up_at_once() -> None:
    assert upgraded("/new").end(hopeless=True) == "/new"
    assert upgraded("/new", ready=False).end(hopeless=True) == "/new"
