"""The codec: what each frame means to each end, and what is sent for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_protocols.gen import ttrpc_pb2
from kata_protocols.status import Code
from kata_protocols.ttrpc import frame
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.errors import LocalProtocolError, MessageTooLargeError
from kata_protocols.ttrpc.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    Rejected,
    RequestReceived,
    ResponseReceived,
)
from kata_protocols.ttrpc.frame import encode_frame
from kata_protocols.ttrpc.state import Role

LIMIT = 200
texts = st.text(max_size=10)


def events(connection: Connection, data: bytes) -> list[Event]:
    connection.receive_data(data)
    found = []
    while (event := connection.next_event()) is not None:
        found.append(event)
    return found


def pair(limit_bytes: int = LIMIT, max_streams: int = 8) -> tuple[Connection, Connection]:
    return (
        Connection(Role.CLIENT, limit_bytes=limit_bytes, max_streams=max_streams),
        Connection(Role.SERVER, limit_bytes=limit_bytes, max_streams=max_streams),
    )


class TestGoldenBytes:
    def test_a_request(self) -> None:
        client, _ = pair()
        stream_id, data = client.send_request(
            "grpc.Health", "Check", b"\x0a\x00", timeout_nano=5, metadata=(("k", "v"),)
        )
        assert stream_id == 1
        assert data == bytes.fromhex("00000022 00000001 01 00") + (
            b"\x0a\x0bgrpc.Health\x12\x05Check\x1a\x02\x0a\x00\x20\x05\x2a\x06\x0a\x01k\x12\x01v"
        )

    def test_success_carries_a_status_that_is_present_and_ok(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        assert server.send_response(1, b"\x08\x01") == bytes.fromhex("00000006 00000001 02 00 0a00 1202 0801")

    def test_success_without_payload(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        assert server.send_response(1, b"") == bytes.fromhex("00000002 00000001 02 00 0a00")

    def test_an_error(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        assert server.send_error(1, Code.NOT_FOUND, "no") == bytes.fromhex(
            "00000008 00000001 02 00 0a06 0805 1202 6e6f"
        )


class TestTwoSides:
    @given(
        texts,
        texts,
        st.binary(max_size=40),
        st.integers(0, 2**63 - 1),
        st.lists(st.tuples(texts, texts), max_size=3),
    )
    def test_a_request_arrives_as_it_was_sent(
        self, service: str, method: str, payload: bytes, timeout_nano: int, metadata: list[tuple[str, str]]
    ) -> None:
        client, server = pair(limit_bytes=4096)
        pairs = tuple(metadata)
        _, data = client.send_request(service, method, payload, timeout_nano=timeout_nano, metadata=pairs)
        assert events(server, data) == [
            RequestReceived(1, service, method, payload, timeout_nano, pairs, more=False)
        ]

    @given(st.binary(max_size=300))
    def test_a_response_arrives_as_it_was_sent(self, payload: bytes) -> None:
        client, server = pair(limit_bytes=4096)
        events(server, client.send_request("s", "m", b"")[1])
        assert events(client, server.send_response(1, payload)) == [ResponseReceived(1, 0, "", (), payload)]
        assert (client.open_streams, server.open_streams) == (0, 0)

    def test_an_error_arrives_with_its_details(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        details = (("type.test/x", b"\x01"),)
        sent = server.send_error(1, Code.ABORTED, "why", details)
        assert events(client, sent) == [ResponseReceived(1, 10, "why", details, b"")]

    def test_ids_are_odd_and_increase(self) -> None:
        client, _ = pair()
        assert [client.send_request("s", "m", b"")[0] for _ in range(3)] == [1, 3, 5]

    def test_answers_may_come_in_any_order(self) -> None:
        client, server = pair()
        for _ in range(3):
            events(server, client.send_request("s", "m", b"")[1])
        answers = b"".join(server.send_response(stream_id, b"%d" % stream_id) for stream_id in (5, 1, 3))
        assert [
            event.stream_id for event in events(client, answers) if isinstance(event, ResponseReceived)
        ] == [5, 1, 3]

    def test_a_head_and_its_tail_make_the_same_frame_as_a_whole_response(self) -> None:
        client, server = pair(limit_bytes=4096)
        for _ in range(2):
            events(server, client.send_request("s", "m", b"")[1])
        head = server.send_response_head(1, b"head", 1000)
        assert head is not None
        whole = server.send_response(3, b"head" + b"t" * 1000)
        assert (head + b"t" * 1000)[8:] == whole[8:]

    def test_a_head_beyond_the_limit_is_refused_and_leaves_the_stream_open(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        assert server.send_response_head(1, b"", LIMIT) is None
        assert server.open_streams == 1


class TestLimits:
    def test_a_request_beyond_the_limit_is_refused_locally(self) -> None:
        client, _ = pair()
        with pytest.raises(MessageTooLargeError, match="exceed maximum message size of 200"):
            client.send_request("s", "m", b"x" * LIMIT)
        assert client.open_streams == 0

    def test_a_response_beyond_the_limit_becomes_a_status(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        sent = server.send_response(1, b"x" * LIMIT)
        assert events(client, sent) == [
            ResponseReceived(1, 3, "message length 205 exceed maximum message size of 200", (), b"")
        ]

    def test_an_error_text_beyond_the_limit_becomes_a_shorter_one(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        (event,) = events(client, server.send_error(1, Code.INTERNAL, "x" * LIMIT))
        assert isinstance(event, ResponseReceived)
        assert event.code == Code.INVALID_ARGUMENT

    def test_an_oversized_request_is_rejected_and_the_next_one_arrives(self) -> None:
        client, server = pair()
        data = encode_frame(1, frame.REQUEST, 0, b"x" * (LIMIT + 1)) + client.send_request("s", "m", b"")[1]
        text = "message length 201 exceed maximum message size of 200"
        rejected, request = events(server, data)
        assert rejected == Rejected(1, Code.INVALID_ARGUMENT, text)
        assert isinstance(request, RequestReceived)

    def test_an_oversized_response_fails_its_call_alone(self) -> None:
        client, server = pair()
        for _ in range(2):
            events(server, client.send_request("s", "m", b"")[1])
        data = encode_frame(1, frame.RESPONSE, 0, b"x" * (LIMIT + 1)) + server.send_response(3, b"")
        rejected, response = events(client, data)
        assert isinstance(rejected, Rejected)
        assert isinstance(response, ResponseReceived)
        assert client.open_streams == 0

    def test_open_streams_are_bounded(self) -> None:
        client, server = pair(max_streams=2)
        for stream_id in (1, 3):
            events(server, encode_frame(stream_id, frame.REQUEST, 0, b""))
            client.send_request("s", "m", b"")
        assert events(server, encode_frame(5, frame.REQUEST, 0, b"")) == [
            Rejected(5, Code.RESOURCE_EXHAUSTED, "too many calls at once: at most 2")
        ]
        with pytest.raises(LocalProtocolError, match="at most 2"):
            client.send_request("s", "m", b"")

    def test_text_that_utf8_cannot_carry_is_escaped(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        (event,) = events(client, server.send_error(1, Code.INTERNAL, "/tmp/\udcff"))
        assert isinstance(event, ResponseReceived)
        assert event.message == "/tmp/\\udcff"


class TestRejections:
    def test_even_stream_ids(self) -> None:
        _, server = pair()
        (event,) = events(server, encode_frame(2, frame.REQUEST, 0, b""))
        assert isinstance(event, Rejected)
        assert (event.stream_id, event.code) == (2, Code.INVALID_ARGUMENT)
        assert "must be odd" in event.message

    def test_a_stream_that_is_still_open(self) -> None:
        client, server = pair()
        data = client.send_request("s", "m", b"")[1]
        events(server, data)
        (event,) = events(server, data)
        assert isinstance(event, Rejected)
        assert event.code == Code.INVALID_ARGUMENT
        assert server.send_rejection(event)
        assert server.open_streams == 1

    @pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x0a\x01\xff", b"\xff" * 20])
    def test_an_envelope_that_does_not_parse(self, data: bytes) -> None:
        _, server = pair()
        assert events(server, encode_frame(1, frame.REQUEST, 0, data)) == [
            Rejected(1, Code.INVALID_ARGUMENT, "request envelope does not parse")
        ]
        assert server.open_streams == 0

    def test_a_response_that_does_not_parse_fails_its_call(self) -> None:
        client, _ = pair()
        client.send_request("s", "m", b"")
        (event,) = events(client, encode_frame(1, frame.RESPONSE, 0, b"\xff"))
        assert event == Rejected(1, Code.INTERNAL, "response envelope does not parse")

    @pytest.mark.parametrize("role", list(Role))
    @pytest.mark.parametrize("kind", [0, 4, 255])
    def test_unknown_types_are_ignored(self, role: Role, kind: int) -> None:
        assert events(Connection(role), encode_frame(1, kind, 0, b"x")) == []

    def test_a_late_or_unasked_response_is_dropped(self) -> None:
        client, server = pair()
        stream_id, data = client.send_request("s", "m", b"")
        events(server, data)
        client.forget(stream_id)
        assert events(client, server.send_response(stream_id, b"")) == []
        assert events(client, encode_frame(99, frame.RESPONSE, 0, b"")) == []

    def test_unknown_fields_are_skipped(self) -> None:
        _, server = pair()
        data = ttrpc_pb2.Request(service="s", method="m").SerializeToString() + b"\x7a\x01x"
        (event,) = events(server, encode_frame(1, frame.REQUEST, 0, data))
        assert isinstance(event, RequestReceived)

    def test_only_an_open_stream_can_be_answered(self) -> None:
        _, server = pair()
        with pytest.raises(LocalProtocolError, match="stream 1 is not open"):
            server.send_response(1, b"")


class TestStreaming:
    def test_a_client_stream(self) -> None:
        client, server = pair()
        stream_id, opening = client.send_request("s", "m", b"", more=True)
        assert opening[9] == frame.REMOTE_OPEN | frame.NO_DATA
        (request,) = events(server, opening)
        assert isinstance(request, RequestReceived)
        assert request.more
        data = client.send_data(stream_id, b"one") + client.send_data(stream_id, b"", last=True)
        assert events(server, data) == [
            DataReceived(stream_id, b"one", closed=False),
            DataReceived(stream_id, b"", closed=True),
        ]
        assert events(server, client.send_data(stream_id, b"after the end")) == []
        (response,) = events(client, server.send_response(stream_id, b""))
        assert isinstance(response, ResponseReceived)

    def test_a_server_stream(self) -> None:
        client, server = pair()
        stream_id, opening = client.send_request("s", "m", b"x", more=False)
        assert opening[9] == frame.REMOTE_CLOSED
        events(server, opening)
        data = server.send_data(stream_id, b"one") + server.send_data(stream_id, b"", last=True)
        assert events(client, data) == [
            DataReceived(stream_id, b"one", closed=False),
            DataReceived(stream_id, b"", closed=True),
        ]

    def test_data_for_an_unknown_stream(self) -> None:
        client, server = pair()
        data = encode_frame(1, frame.DATA, 0, b"x")
        (event,) = events(server, data)
        assert isinstance(event, Rejected)
        assert event.code == Code.INVALID_ARGUMENT
        assert events(client, data) == []

    def test_data_for_a_unary_call_is_dropped(self) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1])
        assert events(server, encode_frame(1, frame.DATA, 0, b"x")) == []
        assert server.open_streams == 1


class TestEnd:
    def test_between_frames(self) -> None:
        assert events(Connection(Role.SERVER), b"") == [ConnectionEnded(truncated=False)]

    @pytest.mark.parametrize("size", [1, 9, 10, 11])
    def test_inside_a_frame(self, size: int) -> None:
        client, server = pair()
        events(server, client.send_request("s", "m", b"")[1][:size])
        assert events(server, b"") == [ConnectionEnded(truncated=True)]


@given(st.lists(st.binary(max_size=60), max_size=10), st.sampled_from(Role))
def test_any_bytes_make_events_and_never_an_exception(pieces: list[bytes], role: Role) -> None:
    connection = Connection(role, limit_bytes=LIMIT, max_streams=4)
    for piece in pieces:
        events(connection, piece or b"\x00")
        assert connection.pending_bytes <= LIMIT + frame.HEADER_BYTES
        assert connection.open_streams <= 4
