"""The one sentence that says why a container ended."""

from __future__ import annotations

import signal

import pytest

from kata_agent.services.ends import summarize
from kata_agent.trail import Signalled
from kata_protocols.gen import sandbox_pb2 as pb

KILLED = pb.Exit(signal=9, time_ns=100)


def sent(number: int, *, at: int = 50, exec_id: str = "", method: str = "SignalProcess") -> Signalled:
    return Signalled(at, "c", exec_id, number, method)


@pytest.mark.parametrize(
    ("end", "signals", "sentence"),
    [
        (pb.Exit(code=0), [], "it ended by itself with code 0"),
        (pb.Exit(code=3), [sent(9)], "it ended by itself with code 3"),
        (KILLED, [sent(9)], "SIGKILL ended it, which the host had sent (SignalProcess)"),
        (KILLED, [sent(9, exec_id="c")], "SIGKILL ended it, which the host had sent (SignalProcess)"),
        (KILLED, [sent(9, method="KillTree")], "SIGKILL ended it, which the host had sent (KillTree)"),
    ],
)
def test_an_end_is_laid_to_what_caused_it(end: pb.Exit, signals: list[Signalled], sentence: str) -> None:
    assert summarize(end, "stopped", signals, failed=False) == sentence


@pytest.mark.parametrize(
    "signals", [[], [sent(9, at=101)], [sent(9, exec_id="probe")], [sent(signal.SIGHUP)]]
)
def test_a_signal_that_came_later_or_went_elsewhere_is_not_blamed(signals: list[Signalled]) -> None:
    assert "the host had not sent" in summarize(KILLED, "stopped", signals, failed=False)


def test_a_term_that_became_a_kill_is_named() -> None:
    said = summarize(KILLED, "stopped", [sent(signal.SIGTERM)], failed=False)
    assert said.startswith("SIGKILL ended it, in place of the SIGTERM that the host had sent")


def test_memory_comes_before_signals() -> None:
    end = pb.Exit(signal=9, time_ns=100, oom=True)
    assert "no memory was left" in summarize(end, "stopped", [sent(9)], failed=False)


def test_what_runs_has_not_ended_and_what_never_was_says_so() -> None:
    assert summarize(None, "running", [], failed=False) == "it has not ended: it is running"
    assert "never made" in summarize(None, "removed", [], failed=True)
