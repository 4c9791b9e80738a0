"""PID 1's decisions at each packet and death, without a fork: the agent's end of the channel is in the test."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from kata_init import control
from kata_init.doorbell import Doorbell
from kata_init.exits import Exit
from kata_init.fdstore import FdStore
from kata_init.heartbeat import Heartbeat
from kata_init.journal import Journal
from kata_init.plan import Plan
from kata_init.supervise import Supervisor
from kata_linux import signalfd

AGENT = 2**22 + 1  # above the kernel's largest pid: signalling it fails with ESRCH


class Lines(Journal):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def error(self, text: str) -> None:
        self.errors.append(text)


class Supervised:
    """A supervisor that believes its agent has pid `AGENT`."""

    def __init__(self) -> None:
        self.journal = Lines()
        self.supervisor = Supervisor(Plan(), self.journal, Doorbell(None, self.journal))
        self.connect()

    def connect(self) -> None:
        ours, theirs = control.open_pair()
        keeper = self.supervisor
        keeper._channel = control.InitChannel(ours, keeper.ledger, keeper.store)
        keeper.agent_pid = AGENT
        self.agent = control.AgentChannel(theirs)

    def end_agent(self, code: int = 1) -> None:
        self.agent.close()
        self.supervisor._agent_ended(Exit(AGENT, 0, code, None, 0))

    def close(self) -> None:
        self.agent.close()
        if self.supervisor._channel is not None:
            self.supervisor._channel.close()
        self.supervisor.store.close()
        os.close(self.supervisor._signals)
        signalfd.restore(self.supervisor._mask)


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    supervised = Supervised()
    yield supervised
    supervised.close()


def test_a_death_noticed_by_its_signal_first_signals_nobody(supervised: Supervised) -> None:
    supervised.end_agent()  # a signal to AGENT would raise ProcessLookupError
    assert supervised.supervisor.agent_pid == 0
    assert supervised.journal.errors == ["agent ended: exit code 1; it is started again in 0 ms"]


def test_what_was_sent_before_the_death_counts(supervised: Supervised) -> None:
    read_end, write_end = os.pipe()
    supervised.agent.store("last", [read_end, write_end])
    os.close(read_end)
    os.close(write_end)
    supervised.end_agent()
    assert supervised.supervisor.store.names() == ["last"]


def test_a_full_store_is_told_to_the_agent_and_the_log(supervised: Supervised) -> None:
    keeper = supervised.supervisor
    keeper.store = FdStore(limit=1)
    read_end, write_end = os.pipe()
    supervised.agent.store("two", [read_end, write_end])
    os.close(read_end)
    os.close(write_end)
    keeper._take_packets()
    keeper._pump()
    refused = supervised.agent.receive()[-1]
    assert isinstance(refused, control.Refused)
    assert refused.name == "two"
    assert supervised.journal.errors == [refused.reason]


def test_an_end_the_agent_asked_for_restarts_nothing(supervised: Supervised) -> None:
    supervised.agent.shutdown()
    supervised.end_agent(0)
    assert supervised.supervisor.reason == "the agent asked for it"
    assert supervised.journal.errors == []


def test_ready_makes_the_next_restart_immediate_again(supervised: Supervised) -> None:
    for _ in range(3):
        supervised.end_agent()
        supervised.connect()
    supervised.agent.ready()
    supervised.end_agent()
    assert supervised.journal.errors[-2:] == [
        "agent ended: exit code 1; it is started again in 100 ms",
        "agent ended: exit code 1; it is started again in 0 ms",
    ]


def test_an_agent_that_is_never_ready_ends_it_all_with_the_reason(supervised: Supervised) -> None:
    for _ in range(10):
        supervised.end_agent()
        supervised.connect()
    assert (
        supervised.supervisor.reason
        == "the agent was started 10 times and never ready; at last it ended: exit code 1"
    )


def test_an_upgrade_starts_the_other_code_at_once_without_counting_as_a_failure(
    supervised: Supervised,
) -> None:
    for _ in range(8):
        supervised.end_agent()
        supervised.connect()
    supervised.agent.upgrade("/code", 1000, 1000)
    supervised.end_agent(0)
    assert not supervised.journal.errors[-1].startswith("agent ended: exit code 0")
    assert supervised.supervisor._start_at_ns is not None
    assert supervised.supervisor._start_at_ns <= time.monotonic_ns()


def test_an_agent_that_cannot_go_on_is_not_started_again_but_its_reason_is_told(
    supervised: Supervised,
) -> None:
    supervised.agent.unfit("state.json has version 9")
    with pytest.raises(ProcessLookupError):  # it is killed: the pid is nobody's here
        supervised.supervisor._take_packets()
    supervised.end_agent()
    reason = "the agent cannot go on, and there is no other code: state.json has version 9"
    assert supervised.supervisor.reason == reason
    assert supervised.journal.errors == [reason]
    assert supervised.supervisor._start_at_ns is None


@pytest.mark.parametrize("answered", [True, False])
def test_an_agent_that_has_answered_is_not_called_silent_by_a_late_pid_1(
    supervised: Supervised, answered: bool
) -> None:
    keeper = supervised.supervisor
    keeper._heartbeat = Heartbeat(interval_ns=10**12, limit_ns=1)
    keeper._heartbeat.start(0)
    keeper._beat()  # asks; whatever follows is later than the limit
    assert isinstance(supervised.agent.receive()[-1], control.Ping)
    if answered:
        supervised.agent.alive(0)
    keeper._poll(time.monotonic_ns())
    told = ["agent is silent for 1e-09 s, about to end"]
    assert supervised.journal.errors == ([] if answered else told)
