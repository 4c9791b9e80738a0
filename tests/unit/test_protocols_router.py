"""The router's answers for names that lead nowhere, and the sniffing of a connection's first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_protocols import services
from kata_protocols.aio.router import Call, Endpoint, Router
from kata_protocols.aio.sniff import HTTP2_PREFACE, is_http2
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError

HEALTH = services.HEALTH_SERVICE


def answer(request: health_pb2.CheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse()


@pytest.fixture
def router() -> Router:
    router = Router()
    router.add(HEALTH, "Check", answer)
    return router


def test_a_known_method_leads_to_its_endpoint(router: Router) -> None:
    assert router.find("grpc.Health", "Check") == Endpoint(health_pb2.CheckRequest, answer)


@pytest.mark.parametrize(
    ("service", "method", "code", "text"),
    [
        ("no.Such", "Check", Code.INVALID_ARGUMENT, "no.Such service does not exist"),
        ("grpc.Health", "Nope", Code.UNIMPLEMENTED, "Nope method"),
        ("grpc.Health", "Version", Code.NOT_FOUND, "/grpc.Health/Version is not supported"),
    ],
)
def test_other_names_have_the_houses_answers(
    router: Router, service: str, method: str, code: Code, text: str
) -> None:
    with pytest.raises(StatusError) as caught:
        router.find(service, method)
    assert (caught.value.code, caught.value.message) == (code, text)


def test_an_endpoint_for_another_message_is_refused(router: Router) -> None:
    wrong = Endpoint(health_pb2.VersionCheckResponse, answer)
    with pytest.raises(TypeError, match=r"grpc.Health/Check: takes CheckRequest, not VersionCheckResponse"):
        router.add_service(HEALTH, {"Check": wrong})


def test_a_method_that_the_service_lacks_is_refused(router: Router) -> None:
    with pytest.raises(KeyError, match="Nope"):
        router.add(HEALTH, "Nope", answer)


@pytest.mark.parametrize("size", range(len(HTTP2_PREFACE)))
def test_a_part_of_the_preface_is_undecided(size: int) -> None:
    assert is_http2(HTTP2_PREFACE[:size]) is None


@given(st.binary(max_size=40))
def test_the_whole_preface_is_http2_whatever_follows(rest: bytes) -> None:
    assert is_http2(HTTP2_PREFACE + rest) is True


@given(st.binary(min_size=1, max_size=40))
def test_everything_else_is_not(data: bytes) -> None:
    if not HTTP2_PREFACE.startswith(data) and not data.startswith(HTTP2_PREFACE):
        assert is_http2(data) is False
