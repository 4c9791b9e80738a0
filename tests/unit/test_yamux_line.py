"""Two ends on a line that nobody hangs up: they meet, whatever was on it before, and whoever begins anew."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_protocols.yamux.connection import DataReceived, StreamOpened
from kata_protocols.yamux.frame import ACK, DATA, HEADER_BYTES, PING, RST, SYN, WINDOW, pack, parse
from kata_protocols.yamux.line import EARLY_BYTES, GREETING_BYTES, MARK, Heard, Joined, Line, Parted


def greeting_line(*, client: bool) -> Line:
    line = Line(client=client)
    line.greet()
    return line


def carry(one: Line, two: Line, cut: int = 7) -> tuple[list[Heard], list[Heard]]:
    """Everything that both have to say, in pieces of `cut` bytes, until there is silence; what each has heard."""
    heard: tuple[list[Heard], list[Heard]] = ([], [])
    for _ in range(20):
        said = one.take_output(), two.take_output()
        if not any(said):
            return heard
        for data, end, events in ((said[0], two, heard[1]), (said[1], one, heard[0])):
            for at in range(0, len(data), cut):
                events += end.receive_data(data[at : at + cut])
    raise AssertionError("they never fall silent")


def works(one: Line, two: Line) -> bool:
    """Whether a stream of the client reaches the server."""
    stream = one.connection.open_stream()
    assert stream is not None
    opening = one.take_output()
    heard = two.receive_data(opening + b"".join(one.connection.send_data(stream, b"hello")))
    carry(one, two)
    return heard == [StreamOpened(stream), DataReceived(stream, b"hello")]


def met() -> tuple[Line, Line]:
    pair = greeting_line(client=True), greeting_line(client=False)
    carry(*pair)
    return pair


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 47, 48, 1000])
def test_both_join_once_when_they_greet_at_the_same_time(cut: int) -> None:
    client, server = greeting_line(client=True), greeting_line(client=False)
    assert carry(client, server, cut) == ([Joined(plain=False)], [Joined(plain=False)])
    assert works(client, server)


def test_the_one_who_comes_late_finds_the_greeting_of_the_first() -> None:
    client = greeting_line(client=True)
    waiting = client.take_output()
    server = greeting_line(client=False)
    assert server.receive_data(waiting) == []
    assert carry(client, server) == ([Joined(plain=False)], [Joined(plain=False)])
    assert works(client, server)


def test_greeting_that_was_lost_is_made_good_by_the_other_end() -> None:
    client, server = greeting_line(client=True), greeting_line(client=False)
    client.take_output()  # nobody was there
    carry(client, server)
    assert works(client, server)


@given(
    st.binary(max_size=200),
    st.binary(max_size=200),
    st.integers(1, 60),
)
def test_what_was_on_the_line_before_is_dropped(left: bytes, right: bytes, cut: int) -> None:
    client, server = greeting_line(client=True), greeting_line(client=False)
    assert client.receive_data(left) == []
    assert server.receive_data(right) == []
    carry(client, server, cut)
    assert works(client, server)


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=300), st.integers(0, 400), st.booleans(), st.integers(1, 60))
def test_end_that_begins_anew_is_heard_within_a_cut_frame(
    data: bytes, at: int, client: bool, cut: int
) -> None:
    """Killed after any number of bytes of what it had to say: the other end meets its successor."""
    pair = dict(zip((True, False), met(), strict=True))
    stream = pair[True].connection.open_stream()
    assert stream is not None
    carry(pair[True], pair[False])
    said = b"".join(pair[client].connection.send_data(stream, data))
    assert any(isinstance(each, Parted) for each in pair[not client].receive_data(said[:at])) is False
    pair[client] = greeting_line(client=client)
    heard = carry(pair[True], pair[False], cut)
    kept = heard[1] if client else heard[0]
    assert isinstance(kept[-1], Joined)
    assert any(isinstance(each, Parted) for each in kept)
    assert works(pair[True], pair[False])


def test_any_order_of_restarts_ends_in_one_session() -> None:
    choice = random.Random(7)  # noqa: S311 - the same each time
    client, server = met()
    for _ in range(300):
        said = client.take_output(), server.take_output()
        server.receive_data(said[0][: choice.randrange(60)] if choice.random() < 0.3 else said[0])
        client.receive_data(said[1][: choice.randrange(60)] if choice.random() < 0.3 else said[1])
        match choice.randrange(3):
            case 0:
                client = greeting_line(client=True)
            case 1:
                server = greeting_line(client=False)
            case _:
                pass
        if choice.random() < 0.2:
            client = greeting_line(client=True)  # nothing is lost from here on
            carry(client, server)
            assert works(client, server)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 130)), max_size=6), st.integers(1, 50))
def test_ends_that_die_within_their_greetings_are_followed_by_ones_that_meet(
    deaths: list[tuple[bool, int]], cut: int
) -> None:
    """Each death leaves so many bytes of what that end had to say, and its successor greets."""
    pair = {True: greeting_line(client=True), False: greeting_line(client=False)}
    for client, left in deaths:
        said = pair[client].take_output()[:left]
        for at in range(0, len(said), cut):
            pair[not client].receive_data(said[at : at + cut])
        pair[client] = greeting_line(client=client)
    carry(pair[True], pair[False], cut)
    assert works(pair[True], pair[False])


def test_data_that_forges_a_greeting_is_data() -> None:
    client, server = met()
    stream = client.connection.open_stream()
    assert stream is not None
    opening = client.take_output()
    forged = (MARK + pack(PING, SYN, 0, 1) + pack(PING, SYN, 0, 0)) * 5
    wire = opening + b"".join(client.connection.send_data(stream, forged))
    heard = []
    for at in range(0, len(wire), 5):
        heard += server.receive_data(wire[at : at + 5])
    assert b"".join(each.data for each in heard if isinstance(each, DataReceived)) == forged
    assert not any(isinstance(each, Parted) for each in heard)


@given(st.binary(max_size=400).map(lambda data: data.replace(b"x", MARK).replace(b"y", MARK[:13])))
def test_data_reaches_the_other_end_as_it_was(data: bytes) -> None:
    client, server = met()
    stream = client.connection.open_stream()
    assert stream is not None
    wire = client.take_output() + b"".join(client.connection.send_data(stream, data))
    heard = server.receive_data(wire)
    assert b"".join(each.data for each in heard if isinstance(each, DataReceived)) == data


def test_violation_is_told_and_both_meet_again() -> None:
    client, server = met()
    heard = server.receive_data(pack(DATA, 0, 0, 1))
    assert heard == [Parted("frame type 0 on stream 0")]
    carry(client, server)
    assert works(client, server)


# Plain peers


def answers(said: bytes) -> bytes:
    """What a plain yamux says to these pings."""
    headers = [parse(said[at : at + 12]) for at in range(0, len(said), 12)]
    return b"".join(pack(PING, ACK, 0, header.length) for header in headers if header.kind == PING)


def test_plain_peer_that_spoke_first_is_heard_from_its_first_byte() -> None:
    server = greeting_line(client=False)
    assert server.receive_data(pack(WINDOW, SYN, 1, 0) + pack(DATA, 0, 1, 2) + b"hi") == []
    heard = server.receive_data(answers(server.take_output()))
    assert heard[:3] == [Joined(plain=True), StreamOpened(1), DataReceived(1, b"hi")]


def test_plain_peer_of_the_agent_before_has_its_streams_reset() -> None:
    server = greeting_line(client=False)
    server.receive_data(b"the rest of a frame")
    server.receive_data(answers(server.take_output()))
    assert server.joined
    assert server.receive_data(pack(DATA, 0, 5, 2) + b"hi") == []
    assert tuple(parse(server.take_output()[-12:])) == (WINDOW, RST, 5, 0)


def test_what_a_plain_peer_may_say_before_is_bounded() -> None:
    server = greeting_line(client=False)
    said = server.take_output()
    for _ in range(40):
        server.receive_data(pack(DATA, 0, 1, 32768) + bytes(32768))
    assert len(server._early) <= EARLY_BYTES
    server.receive_data(answers(said))
    assert server.joined


def test_plain_peer_that_says_much_before_it_answers_loses_nothing() -> None:
    server = greeting_line(client=False)
    said = server.take_output()
    heard = server.receive_data(b"".join(pack(WINDOW, SYN, number, 0) for number in (1, 3, 5, 7)))
    for _ in range(6):
        for number in (1, 3, 5, 7):
            heard += server.receive_data(pack(DATA, 0, number, 40000) + bytes(40000))
    heard += server.receive_data(answers(said))
    got = dict.fromkeys((1, 3, 5, 7), 0)
    for event in heard:
        if isinstance(event, DataReceived):
            got[event.stream_id] += len(event.data)
    assert got == dict.fromkeys(got, 6 * 40000)
    assert not any(isinstance(each, Parted) for each in heard)
    forged = MARK + pack(PING, SYN, 0, 1) + pack(PING, SYN, 0, 0)
    server.receive_data(pack(DATA, 0, 1, len(forged)) + forged)
    assert server.joined, "its data may have marks, once it is known"


def test_much_that_a_host_of_ours_left_is_dropped_for_its_greeting() -> None:
    client, before = met()
    stream = client.connection.open_stream()
    assert stream is not None
    left = client.take_output()
    for number in range(3, 9, 2):
        assert client.connection.open_stream() == number
        left += client.take_output()
        while client.connection.sendable_bytes(number):
            left += b"".join(
                client.connection.send_data(number, bytes(client.connection.sendable_bytes(number)))
            )
    server = greeting_line(client=False)
    server.receive_data(left)
    carry(client, server, 1000)
    assert works(client, server)
    assert before.joined


def test_greeting_is_pings_for_who_does_not_know_it() -> None:
    said = greeting_line(client=True).take_output()
    assert len(said) == GREETING_BYTES
    assert {parse(said[at : at + 12])[:3] for at in range(0, len(said), 12)} == {(PING, SYN, 0)}


def test_end_of_ours_that_takes_the_other_for_a_plain_one_before_it_meets_it_all_the_same() -> None:
    """A plain peer was followed by an end of ours before its hanging up was seen."""
    guest, host = Line(client=False), Line(client=True)
    guest.greet()
    number = parse(guest.take_output()[2 * HEADER_BYTES : 3 * HEADER_BYTES]).length
    assert Joined(True) in guest.receive_data(pack(PING, ACK, 0, number) + pack(WINDOW, SYN, 1, 0))
    host.greet()
    for _ in range(3):
        guest.receive_data(host.take_output())
        host.receive_data(guest.take_output())
    assert host.connection.open_stream() == 1
    for _ in range(6):
        guest.receive_data(host.take_output())
        host.receive_data(guest.take_output())
    assert guest.joined
    assert host.joined
    assert host.connection.open_stream() == 1, (
        "in a new session, which both take for one between ends of ours"
    )
    assert StreamOpened(1) in guest.receive_data(host.take_output())
