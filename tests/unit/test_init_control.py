"""The control channel, both ends in one process: packets, order, stalls, garbage, and no descriptor left behind."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from kata_init import control
from kata_init.control import AgentChannel, InitChannel
from kata_init.exits import Exit
from kata_init.fdstore import FdStore, close_all
from kata_init.ledger import Ledger


class Pair:
    def __init__(self) -> None:
        self.ledger = Ledger()
        self.store = FdStore()
        self.init, self.agent = control.make_pair(self.ledger, self.store)

    def reconnect(self, boot: tuple[tuple[str, int], ...] = ()) -> None:
        self.init.close()
        self.agent.close()
        ours, theirs = control.open_pair()
        self.init, self.agent = InitChannel(ours, self.ledger, self.store, boot), AgentChannel(theirs)


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = open_fds()
    pair = Pair()
    yield pair
    pair.init.close()
    pair.agent.close()
    pair.store.close()
    assert open_fds() == before, "descriptors leaked"


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def make_exit(pid: int, code: int | None = 0, signal: int | None = None) -> Exit:
    return Exit(pid=pid, start_time=pid * 10, code=code, signal=signal, time_ns=1)


def send_raw(end: control._End, data: bytes, fds: tuple[int, ...] = ()) -> None:
    raw = socket.socket(fileno=os.dup(end.fileno()))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))] if fds else []
    raw.sendmsg([data], rights)
    raw.close()


def test_a_question_goes_out_at_once_and_its_answer_comes_back(pair: Pair) -> None:
    assert pair.init.ping(123, 456)
    assert pair.agent.receive() == [control.Ping(123, 456)]
    pair.agent.alive(789)
    assert pair.init.receive() == [control.Alive(789)]


def test_a_question_that_nobody_reads_is_given_up(pair: Pair) -> None:
    while pair.init.ping(1, 1):
        pass
    pair.agent.close()
    assert not pair.init.ping(1, 1)


def test_the_life_follows_the_boot(pair: Pair) -> None:
    ours, theirs = control.open_pair()
    init = InitChannel(ours, pair.ledger, pair.store, (("pid1 up", 1),), control.Life(3, "signal 9"))
    agent = AgentChannel(theirs)
    init.pump()
    assert agent.receive() == [
        control.Boot((("pid1 up", 1),)),
        control.Life(3, "signal 9"),
        control.Synced(),
    ]
    init.close()
    agent.close()


def test_a_start_tells_boot_then_stored_then_exits_then_synced(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    pair.store.put("stdio", (read_end, write_end))
    pair.ledger.add(make_exit(5, 7))
    pair.ledger.add(make_exit(6, None, 9))
    pair.reconnect((("pid1 up", 12), ("agent forked", 34)))
    pair.init.pump()
    boot, stored, first, second, synced = pair.agent.receive()
    assert boot == control.Boot((("pid1 up", 12), ("agent forked", 34)))
    assert isinstance(stored, control.Stored)
    assert stored.name == "stdio"
    os.write(stored.fds[1], b"x")
    assert os.read(read_end, 1) == b"x"
    assert (first, second) == (make_exit(5, 7), make_exit(6, None, 9))
    assert isinstance(synced, control.Synced)
    for fd in stored.fds:
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_each_verb_of_the_agent_arrives_as_its_type(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    pair.agent.store("a/b", [read_end, write_end])
    os.close(read_end)
    os.close(write_end)
    pair.agent.discard("a/b")
    pair.agent.forget_exit(3, 4)
    pair.agent.ready()
    pair.agent.shutdown()
    store, *rest = pair.init.receive()
    assert isinstance(store, control.Store)
    close_all(store.fds)
    assert [(type(packet), tuple(packet)) for packet in rest] == [
        (control.Discard, ("a/b",)),
        (control.Forget, (3, 4)),
        (control.Ready, ()),
        (control.Shutdown, ()),
    ]


def test_an_agent_that_does_not_read_is_sent_the_rest_when_it_does(pair: Pair) -> None:
    pids = list(range(1, 3001))
    for pid in pids:
        pair.ledger.add(make_exit(pid))
    pair.init.pump()
    assert pair.init.wants_write
    got: list[int] = []
    while len(got) < len(pids):
        batch = pair.agent.receive()
        got += [packet.pid for packet in batch if isinstance(packet, Exit)]
        pair.init.pump()
    assert got == pids


def test_what_the_agent_forgets_before_it_was_told_is_not_sent(pair: Pair) -> None:
    pair.ledger.add(make_exit(1))
    pair.ledger.add(make_exit(2))
    pair.ledger.forget(1, 10)
    pair.init.pump()
    assert [type(packet).__name__ for packet in pair.agent.receive()] == ["Exit", "Synced"]


def test_a_refusal_names_the_entry_and_the_reason(pair: Pair) -> None:
    pair.init.refuse("big", "full")
    pair.init.pump()
    assert pair.agent.receive()[-1] == control.Refused("big", "full")


def test_refusals_that_nobody_reads_are_bounded_and_counted(pair: Pair) -> None:
    for _ in range(control.PENDING_REFUSALS + 5):
        pair.init.refuse("big", "full")
    assert pair.init.lost == 5


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense",
        b"store",
        b"store\0name",
        b"store\0",
        b"forget\0one\0two",
        b"forget\x001",
        b"ready\0now",
        b"\xff\xfe",
        b"\0" * 100,
        b"discard\0" + b"x" * (control.MAX_PACKET + 1),
    ],
)
def test_what_is_no_packet_is_told_and_the_next_one_still_arrives(pair: Pair, data: bytes) -> None:
    send_raw(pair.agent, data)
    pair.agent.ready()
    malformed, ready = pair.init.receive()
    assert isinstance(malformed, control.Malformed)
    assert malformed.reason.startswith("packet b")
    assert isinstance(ready, control.Ready)


@pytest.mark.parametrize("data", [b"nonsense", b"ready", b"discard\0x", b"store\0"])
def test_descriptors_of_a_packet_that_takes_none_are_closed(pair: Pair, data: bytes) -> None:
    read_end, write_end = os.pipe()
    send_raw(pair.agent, data, (write_end,))
    os.close(write_end)
    (malformed,) = pair.init.receive()
    assert isinstance(malformed, control.Malformed)
    assert os.read(read_end, 1) == b"", "the descriptor in the packet is still open"
    os.close(read_end)


@pytest.mark.parametrize(
    "data", [b"exit\x001\x002\x003\x004\x005", b"exit\x001\x002\0\0\x005", b"boot\0one", b"stored\0x"]
)
def test_what_is_no_packet_of_pid_1_is_told_too(pair: Pair, data: bytes) -> None:
    send_raw(pair.init, data)
    (malformed,) = pair.agent.receive()
    assert isinstance(malformed, control.Malformed)


def test_a_packet_cut_off_for_want_of_descriptors_leaks_none(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    pair.agent.store("many", [write_end] * 50)
    os.close(write_end)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (read_end + 20, hard))
    try:
        (malformed,) = pair.init.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(malformed, control.Malformed)
    assert "cut off" in malformed.reason
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_the_end_of_the_peer_is_noticed_after_what_it_sent_last(pair: Pair) -> None:
    pair.init.pump()  # the peer leaves this unread, so the kernel tells a reset before the data
    pair.agent.ready()
    pair.agent.close()
    assert [type(packet) for packet in pair.init.receive()] == [control.Ready]
    assert pair.init.closed
    pair.init.pump()
    assert not pair.init.wants_write


def test_names_that_could_not_come_back_are_refused_at_once(pair: Pair) -> None:
    for name in ("", "a\0b", "x" * 513):
        with pytest.raises(ValueError, match="name in the descriptor store"):
            pair.agent.store(name, [0])
    with pytest.raises(ValueError, match="1 to 253 descriptors"):
        pair.agent.store("x", [])


def test_the_word_of_an_upgrade_and_of_an_agent_that_cannot_go_on_arrive(pair: Pair) -> None:
    pair.agent.upgrade("/run/code", 5000, 20000)
    pair.agent.unfit("version 9\0" + "ä" * 2000)
    upgrade, unfit = pair.init.receive()
    assert upgrade == control.Upgrade("/run/code", 5000, 20000)
    assert unfit == control.Unfit("version 9 " + "ä" * 502)


def test_dropped_exits_are_told_before_synced_and_again_when_there_are_more() -> None:
    ledger = Ledger(limit=2)
    for number in range(5):
        ledger.add(make_exit(number + 10, 0))
    init, agent = control.make_pair(ledger, FdStore())
    init.pump()
    assert agent.receive()[2:] == [control.Lost(3), control.Synced()]
    ledger.add(make_exit(50, 0))
    init.pump()
    assert agent.receive() == [make_exit(50, 0), control.Lost(4)]
    init.close()
    agent.close()
