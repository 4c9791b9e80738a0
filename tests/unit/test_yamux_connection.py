"""yamux's codec by its specification: what each end may say, what it gets for saying more, and its bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_protocols.yamux import frame
from kata_protocols.yamux.connection import (
    Connection,
    DataReceived,
    Event,
    GoneAway,
    Pong,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowGrew,
)
from kata_protocols.yamux.frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW,
    WINDOW_BYTES,
    YamuxError,
    pack,
)


def hear(connection: Connection, data: bytes) -> list[Event]:
    connection.receive_data(data)
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


def headers(data: bytes) -> list[tuple[int, ...]]:
    """The headers in a row; data frames have their data skipped."""
    found = []
    while data:
        header = frame.parse(data[:12])
        found.append(tuple(header))
        data = data[12 + (header.length if header.kind == DATA else 0) :]
    return found


def opened(flags: int = SYN) -> Connection:
    """A server with the client's stream 1."""
    server = Connection(client=False)
    assert hear(server, pack(WINDOW, flags, 1, 0)) == [StreamOpened(1)]
    assert headers(server.take_output()) == [(WINDOW, ACK, 1, 0)]
    return server


def test_header_is_twelve_bytes_in_network_order() -> None:
    assert pack(DATA, FIN, 0x01020304, 5) == bytes([0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 5])


def test_streams_of_the_client_are_odd_and_of_the_server_even() -> None:
    client, server = Connection(client=True), Connection(client=False)
    assert [client.open_stream(), client.open_stream(), server.open_stream()] == [1, 3, 2]
    assert headers(client.take_output()) == [(WINDOW, SYN, 1, 0), (WINDOW, SYN, 3, 0)]


def test_stream_may_begin_with_a_bigger_window_or_with_data() -> None:
    server = Connection(client=False)
    assert hear(server, pack(WINDOW, SYN, 1, 100)) == [StreamOpened(1), WindowGrew(1)]
    assert hear(server, pack(DATA, SYN, 3, 2) + b"hi") == [StreamOpened(3), DataReceived(3, b"hi")]


def test_data_comes_in_pieces_as_it_arrives() -> None:
    server = opened()
    assert hear(server, pack(DATA, 0, 1, 5) + b"he") == [DataReceived(1, b"he")]
    assert server.left_bytes == 3
    assert hear(server, b"llo") == [DataReceived(1, b"llo")]


def test_each_side_ends_for_itself_and_the_second_end_frees_the_stream() -> None:
    server = opened()
    assert hear(server, pack(DATA, FIN, 1, 2) + b"h") == [DataReceived(1, b"h")]
    assert hear(server, b"i") == [DataReceived(1, b"i"), StreamEnded(1)]
    assert server.sendable_bytes(1) > 0
    assert headers(server.send_data(1, b"answer")[0]) == [(DATA, 0, 1, 6)]
    server.finish(1)
    assert headers(server.take_output()) == [(WINDOW, FIN, 1, 0)]
    assert len(server) == 0


def test_reset_ends_both_sides_at_once() -> None:
    server = opened()
    assert hear(server, pack(WINDOW, RST, 1, 0)) == [StreamReset(1)]
    assert len(server) == 0
    assert hear(server, pack(DATA, 0, 1, 3) + b"xyz") == []
    assert headers(server.take_output()) == [(WINDOW, RST, 1, 0)]


def test_ping_is_answered_with_its_value() -> None:
    client = Connection(client=True)
    assert hear(client, pack(PING, SYN, 0, 77)) == []
    assert headers(client.take_output()) == [(PING, ACK, 0, 77)]
    assert hear(client, pack(PING, ACK, 0, 5)) == [Pong(5)]


def test_no_stream_is_opened_to_a_peer_that_goes_away() -> None:
    client = Connection(client=True)
    assert hear(client, pack(GO_AWAY, 0, 0, 2)) == [GoneAway(2)]
    assert client.open_stream() is None


def test_window_is_given_back_when_half_of_it_was_taken() -> None:
    server = opened()
    half = WINDOW_BYTES // 2
    hear(server, pack(DATA, 0, 1, half) + bytes(half))
    server.acknowledge(1, half - 1)
    assert server.take_output() == b""
    server.acknowledge(1, 1)
    assert headers(server.take_output()) == [(WINDOW, 0, 1, half)]


def test_no_more_is_sent_than_the_window_and_one_frame_allow() -> None:
    client = Connection(client=True)
    stream = client.open_stream()
    assert stream == 1
    sent = 0
    while size := client.sendable_bytes(stream):
        assert size <= frame.MAX_DATA_BYTES
        assert sum(len(each) - 12 for each in client.send_data(stream, bytes(size))) == size
        sent += size
    assert sent == WINDOW_BYTES
    assert hear(client, pack(WINDOW, 0, 1, 10)) == [WindowGrew(1)]
    assert client.sendable_bytes(stream) == 10


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\1" + bytes(11), "version 1"),
        (pack(4, 0, 0, 0), "type 4"),
        (pack(DATA, 0, 0, 1), "on stream 0"),
        (pack(PING, SYN, 1, 0), "on stream 1"),
        (pack(WINDOW, SYN, 2, 0), "a number of ours"),
        (pack(WINDOW, SYN, 1, 0), "open already"),
        (pack(DATA, 0, 1, WINDOW_BYTES + 1), "whose window has"),
        (pack(DATA, FIN, 1, 0) + pack(DATA, 0, 1, 1), "after its end"),
        (pack(WINDOW, 0, 1, 0xFFFFFFFF), "grew beyond"),
        (pack(DATA, 0, 9, 0xFFFFFFFF), "not open"),
    ],
)
def test_violation_is_a_go_away_with_its_code_and_then_silence(data: bytes, text: str) -> None:
    server = opened()
    with pytest.raises(YamuxError, match=text):
        hear(server, data)
    assert headers(server.take_output())[-1] == (GO_AWAY, 0, 0, frame.PROTOCOL_ERROR)
    assert hear(server, pack(PING, SYN, 0, 1)) == []
    assert server.take_output() == b""


def test_window_counts_what_was_not_acknowledged() -> None:
    server = opened()
    hear(server, pack(DATA, 0, 1, WINDOW_BYTES) + bytes(WINDOW_BYTES))
    with pytest.raises(YamuxError, match="whose window has 0"):
        hear(server, pack(DATA, 0, 1, 1))


def test_stream_too_many_is_reset_and_the_others_stay() -> None:
    server = Connection(client=False, max_streams=2)
    heard = hear(server, b"".join(pack(WINDOW, SYN, number, 0) for number in (1, 3, 5)))
    assert heard == [StreamOpened(1), StreamOpened(3)]
    assert headers(server.take_output())[-1] == (WINDOW, RST, 5, 0)
    assert server.open_stream() is None


MARK = b"\0\2\0\1" + b"\xcb\xcb"


@given(
    st.lists(st.sampled_from([MARK, MARK[:3], MARK[3:], b"\0", b"\2", b"x" * 9]), max_size=30).map(b"".join)
)
def test_what_is_to_be_avoided_never_leaves_and_nothing_is_lost(data: bytes) -> None:
    client = Connection(client=True, avoid=MARK)
    stream = client.open_stream()
    assert stream is not None
    server = opened()
    frames = client.send_data(stream, data)
    wire = b"".join(frames)
    assert all(MARK not in each for each in frames)
    assert b"".join(event.data for event in hear(server, wire) if isinstance(event, DataReceived)) == data


FRAMES = st.builds(
    lambda kind, flags, stream, length, data: pack(kind, flags, stream, length) + data,
    st.integers(0, 4),
    st.integers(0, 15),
    st.integers(0, 6),
    st.one_of(st.integers(0, 20), st.integers(0, 0xFFFFFFFF)),
    st.binary(max_size=20),
)


@settings(max_examples=400)
@given(st.lists(st.one_of(FRAMES, st.binary(max_size=30)), max_size=25), st.booleans())
def test_any_bytes_end_in_events_or_one_violation_within_the_bounds(
    pieces: list[bytes], client: bool
) -> None:
    """Whatever comes: YamuxError is the only exception, streams stay few, windows are never overdrawn."""
    connection = Connection(client=client, max_streams=4)
    unread: dict[int, int] = {}
    with contextlib.suppress(YamuxError):
        for piece in pieces:
            for event in hear(connection, piece):
                if isinstance(event, StreamOpened):
                    unread[event.stream_id] = 0
                elif isinstance(event, DataReceived):
                    unread[event.stream_id] = unread.get(event.stream_id, 0) + len(event.data)
                    assert unread[event.stream_id] <= WINDOW_BYTES
            assert len(connection) <= 4
    headers(connection.take_output())  # whole and parseable, always
