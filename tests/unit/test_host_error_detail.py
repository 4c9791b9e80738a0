"""A status's detail is found among others', and what cannot be read is none."""

from __future__ import annotations

from kata_agent.services.detail import TYPE_URL as AGENT_TYPE_URL
from kata_host.error_detail import TYPE_URL, find_detail
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import Code, StatusError

DETAIL = pb.ErrorDetail(stage="StartContainer", errno=2, errno_name="ENOENT", hint="look there")


def test_the_detail_is_found_beside_others() -> None:
    details = (("type.test/x", b"\x01"), (TYPE_URL, DETAIL.SerializeToString()))
    assert find_detail(StatusError(Code.INTERNAL, "x", details)) == DETAIL


def test_none_and_broken_ones_are_none() -> None:
    assert find_detail(StatusError(Code.INTERNAL, "x")) is None
    assert find_detail(StatusError(Code.INTERNAL, "x", ((TYPE_URL, b"\xff"),))) is None


def test_host_and_agent_mean_the_same_message() -> None:
    assert TYPE_URL == AGENT_TYPE_URL
    assert TYPE_URL.endswith("/" + pb.ErrorDetail.DESCRIPTOR.full_name)
