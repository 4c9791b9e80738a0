"""Spans: the bytes that Kata's forwarder reads, the caller's context, names, and an exporter that holds nobody back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kata_agent.dispatch import AGENT, METHODS
from kata_agent.log import Log
from kata_agent.tracing import export
from kata_agent.tracing.context import Context, parse_state, read_context
from kata_agent.tracing.export import LIMIT, Exporter
from kata_agent.tracing.tracer import Tracer, name_of
from kata_host.spans import listen_for_spans, receive_spans
from kata_protocols import span as spans
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.router import Call
from kata_protocols.gen import agent_pb2
from kata_protocols.span import Span, decode_span, encode_span
from kata_protocols.status import Code
from kata_testing.wire import fresh_address, run_async

DATA = Path(__file__).parent / "data" / "span"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

PLAIN = Span(
    trace_id=bytes(range(1, 17)),
    span_id=bytes(range(0x11, 0x19)),
    parent_id=bytes(range(0x21, 0x29)),
    name="create_container",
    start_ns=1_700_000_000_000_000_005,
    end_ns=1_700_000_001_000_000_006,
    attributes={"rpc.system": "ttrpc"},
)
FULL = PLAIN._replace(
    kind=spans.INTERNAL,
    remote=True,
    state=(("a", "b"), ("c", "d")),
    status=spans.ERROR,
    status_message="no",
    resource={"b": True, "f": 1.5, "service.name": "kata-agent"},
)


@pytest.mark.parametrize(("name", "span"), [("plain", PLAIN), ("full", FULL)])
def test_bytes_are_those_of_the_sdk_s_own_encoder(name: str, span: Span) -> None:
    """The samples were written by opentelemetry 0.14.0 and bincode 1.3.3."""
    data = bytes.fromhex((DATA / f"{name}.hex").read_text())
    assert encode_span(span) == data
    assert decode_span(data) == span


VALUES = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text())
NAMED = st.dictionaries(st.text(), VALUES, max_size=4)


@given(NAMED, st.none() | NAMED, st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_what_is_encoded_is_decoded(
    attributes: Any, resource: Any, name: str, state: list[tuple[str, str]]
) -> None:
    span = PLAIN._replace(attributes=attributes, resource=resource, name=name, state=tuple(state))
    assert decode_span(encode_span(span)) == span


SHORTEST = len(encode_span(Span(bytes(16), bytes(8), bytes(8), "", 0, 0, {})))


@example(bytes(SHORTEST))  # zeros of this length are a span, and nothing else of this length need not be one
@given(st.binary(max_size=300))
def test_bytes_that_are_no_span_are_a_value_error(data: bytes) -> None:
    try:
        decode_span(data)
    except ValueError as error:
        assert "span" in str(error)  # noqa: PT017 - some bytes are one
    else:
        assert len(data) >= SHORTEST


def test_cut_and_longer_spans_are_refused() -> None:
    data = encode_span(FULL)
    for wrong in (data[:-1], data + b"\0", data[:40]):
        with pytest.raises(ValueError, match="span"):
            decode_span(wrong)


def context(*pairs: tuple[str, str]) -> Context | None:
    return read_context(pairs)


def test_caller_s_context_is_read_with_its_state() -> None:
    assert context(("traceparent", PARENT), ("tracestate", "a=1,b=2")) == Context(
        bytes.fromhex(TRACE), bytes.fromhex(SPAN), 1, (("a", "1"), ("b", "2"))
    )
    assert context(("Traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")) == context(
        ("traceparent", PARENT), ("tracestate", "a=1, b=2")
    )
    assert context(("traceparent", f"01-{TRACE}-{SPAN}-00-more")) == Context(
        bytes.fromhex(TRACE), bytes.fromhex(SPAN), 0
    )


@pytest.mark.parametrize(
    "value",
    [
        "", "nonsense", PARENT.upper(), f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 600, "x" * 1_000_000, f"00-{TRACE}-{SPAN}-0é",
    ],
)  # fmt: skip
def test_context_that_is_none_is_as_if_it_were_not_there(value: str) -> None:
    assert context(("traceparent", value)) is None
    assert context(("traceparent", PARENT), ("traceparent", value)) is None


def test_state_that_is_too_long_or_none_is_left_out_and_the_parent_stays() -> None:
    for state in ("a=" + "x" * 600, ",".join(f"k{n}=v" for n in range(33)), "nonsense", "=x"):
        found = context(("traceparent", PARENT), ("tracestate", state))
        assert found is not None
        assert found.state == ()
    assert parse_state("a=1,,b=x=y") == (("a", "1"), ("b", "x=y"))


def test_names_are_those_of_kata_s_agent() -> None:
    names = {method: name_of(method) for method in METHODS[AGENT]}
    assert len(set(names.values())) == len(names)
    assert names["UpdateEphemeralMounts"] == "update_mounts"
    assert names["GetIPTables"] == "get_iptables"
    assert names["AddARPNeighbors"] == "add_arp_neighbors"
    assert names["OnlineCPUMem"] == "online_cpu_mem"
    assert names["CreateContainer"] == "create_container"
    assert names["TtyWinResize"] == "tty_win_resize"


def trace(metadata: tuple[tuple[str, str], ...], code: Code = Code.OK, text: str = "") -> list[Span]:
    """The spans of one StartContainer."""
    sent: list[bytes] = []
    begin = Tracer(sent.append).recorder(AGENT, "StartContainer")
    call = Call(AGENT, "StartContainer", metadata, None, "test")
    begin(agent_pb2.StartContainerRequest(container_id="c1"), call)(code, text)
    return [decode_span(data[spans.HEAD_BYTES :]) for data in sent]


def test_call_is_a_span_below_its_caller_s() -> None:
    (span,) = trace((("traceparent", PARENT), ("tracestate", "a=1")), Code.INTERNAL, "x" * 1000)
    assert (span.trace_id.hex(), span.parent_id.hex()) == (TRACE, SPAN)
    assert (span.name, span.kind, span.state) == ("start_container", spans.SERVER, (("a", "1"),))
    assert (span.status, span.status_message) == (spans.ERROR, "x" * 500)
    assert span.attributes["container-id"] == "c1"
    assert span.end_ns >= span.start_ns
    assert span.resource == {"service.name": "kata-agent"}


def test_call_without_a_context_begins_a_trace_and_one_that_is_not_sampled_is_none() -> None:
    (one,), (other,) = trace(()), trace((("traceparent", "nonsense"),))
    assert one.parent_id == other.parent_id == bytes(8)
    assert one.trace_id != other.trace_id
    assert one.status == spans.OK
    assert trace((("traceparent", f"00-{TRACE}-{SPAN}-00"),)) == []


@pytest.fixture
def log() -> Iterator[tuple[Log, list[dict[str, str]]]]:
    reader, writer = os.pipe()
    made, records = Log(writer), list[dict[str, str]]()
    made.attach(lambda line: records.append(json.loads(line)))
    yield made, records
    os.close(reader)
    os.close(writer)


def test_spans_reach_who_listens_also_those_of_before(log: tuple[Log, list[dict[str, str]]]) -> None:
    address = fresh_address()

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            exporter = Exporter(str(address), group, log[0])
            exporter.put(spans.frame(encode_span(PLAIN)))
        assert [record["msg"] for record in log[1]] == ["spans do not reach the host"]
        with listen_for_spans(address) as listener:
            async with aclosing(receive_spans(listener)) as received, asyncio.TaskGroup() as group:
                exporter._group = group
                exporter._failed_at = 0.0
                exporter.put(spans.frame(encode_span(FULL)))
                assert [await anext(received), await anext(received)] == [PLAIN, FULL]
                exporter.close()
        assert exporter.dropped == 0

    run_async(body())


def test_queue_is_bounded_and_nobody_is_asked_again_at_once(
    log: tuple[Log, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "RETRY_S", 1000.0)

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            exporter = Exporter(str(fresh_address()), group, log[0])
            exporter.put(b"0")
        for number in range(LIMIT + 9):
            exporter.put(b"%d" % number)
        assert exporter.dropped == 10
        assert not exporter._sending

    run_async(body())
    assert len(log[1]) == 1


def test_receiver_tells_what_is_no_span() -> None:
    address: UnixAddress = fresh_address()

    async def body() -> None:
        with listen_for_spans(address) as listener:
            async with aclosing(receive_spans(listener)) as received:
                asking = asyncio.open_unix_connection(address.path)
                _, writer = await asking
                writer.write(spans.frame(b"nonsense"))
                with pytest.raises(ValueError, match="cut short"):
                    await anext(received)
                writer.close()

    run_async(body())
