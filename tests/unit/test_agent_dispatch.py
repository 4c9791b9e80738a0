"""The dispatcher: every method of the contract leads somewhere, and every failure becomes a status once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from kata_agent import dispatch, errors
from kata_agent.config import Config
from kata_agent.config.value import AllowList
from kata_agent.durations import Durations
from kata_agent.endpoints import find_unknown
from kata_agent.events import EventHub
from kata_agent.flight import open_flight
from kata_agent.log import Log
from kata_protocols import services
from kata_protocols.aio.reply import PipeReply
from kata_protocols.aio.router import Call
from kata_protocols.gen import agent_pb2, health_pb2, sandbox_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.wire import run_async

BUILT = sorted(dispatch.METHODS[dispatch.AGENT])


FLIGHT = open_flight((), 1)


class FakeContainers:
    """Answers what it was given, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def close_stdin(self, *_: object) -> None:
        self._say()

    def resize(self, *_: object) -> None:
        self._say()

    def read(self, *_: object) -> object:
        return self._say()

    async def start(self, *_: object) -> None:
        self._say()

    def _say(self) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class FakeAgent:
    """As much of an agent as these handlers reach."""

    def __init__(self, log: Log, answer: object = None, settings: Config | None = None) -> None:
        self.log = log
        self.config = settings or Config()
        self.flight = FLIGHT
        self.tracer = None
        self.containers = FakeContainers(answer)
        self.noted: list[tuple[str, str, str]] = []
        self.events = EventHub()
        self.durations = Durations()
        self.gate = None

    def check_confidential(self) -> None:
        """This guest is none."""

    def is_quiet(self) -> bool:
        return False

    def note_failure(self, container_id: str, method: str, text: str) -> None:
        self.noted.append((container_id, method, text))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def make(pipe: tuple[int, int]) -> Any:
    return lambda answer=None, **settings: dispatch.Dispatcher(
        FakeAgent(Log(pipe[1]), answer, Config(**settings))  # type: ignore[arg-type]
    )


def records(pipe: tuple[int, int]) -> list[dict[str, str]]:
    try:
        return [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]
    except BlockingIOError:
        return []


def call(dispatcher: dispatch.Dispatcher, method: str, request: Any = None) -> Any:
    endpoint = dispatcher.find(dispatch.AGENT, method)
    about = Call(dispatch.AGENT, method, (), None, "test")
    result: Any = endpoint.handler(endpoint.request_type() if request is None else request, about)
    return run_async(result) if hasattr(result, "__await__") else result


def test_all_methods_of_the_contract_and_no_others_are_listed() -> None:
    assert set(dispatch.METHODS[dispatch.AGENT]) == set(services.AGENT_SERVICE.methods)
    assert set(dispatch.METHODS[dispatch.HEALTH]) == set(services.HEALTH_SERVICE.methods)
    assert set(dispatch.METHODS[dispatch.SANDBOX]) == set(services.SANDBOX_SERVICE.methods)
    assert len(services.AGENT_SERVICE.methods) + len(services.HEALTH_SERVICE.methods) == 43


@pytest.mark.parametrize("method", BUILT)
def test_built_method_has_a_handler_for_its_message(method: str, make: Any) -> None:
    endpoint = make().find(dispatch.AGENT, method)
    assert endpoint.request_type is services.AGENT_SERVICE.methods[method].request_type
    assert endpoint.cancel_on_disconnect == (
        method in {"WaitProcess", "ReadStdout", "ReadStderr", "GetOOMEvent"}
    )


@pytest.mark.parametrize("name", ["HEALTH", "AGENT", "SANDBOX"])
def test_every_method_of_the_contract_has_a_handler(name: str) -> None:
    table = getattr(services, f"{name}_SERVICE")
    assert dispatch.METHODS[table.name].keys() == table.methods.keys()


def test_names_that_lead_nowhere_have_kata_s_answers(make: Any) -> None:
    with pytest.raises(StatusError) as method:
        make().find(dispatch.AGENT, "Dance")
    assert (method.value.code, method.value.message) == (Code.UNIMPLEMENTED, "Dance method")
    with pytest.raises(StatusError) as service:
        make().find("grpc.Nothing", "Check")
    assert service.value.code == Code.INVALID_ARGUMENT
    assert service.value.message == "grpc.Nothing service does not exist"


ALLOWED = AllowList(frozenset({"CreateContainerRequest", "StartContainer", "kata.agent.v1.Sandbox/GetBoot"}))


def test_what_the_allow_list_does_not_name_is_refused_in_every_service_but_health(
    make: Any, pipe: tuple[int, int]
) -> None:
    dispatcher = make(endpoints=ALLOWED)
    with pytest.raises(StatusError) as caught:
        call(dispatcher, "CloseStdin")
    assert (caught.value.code, caught.value.message) == (
        Code.PERMISSION_DENIED,
        "CloseStdinRequest is blocked",
    )
    (record,) = records(pipe)
    assert (record["method"], record["status"]) == ("CloseStdin", "PERMISSION_DENIED")
    for service, method, message in (
        (dispatch.SANDBOX, "Why", "WhyRequest"),
        (dispatch.SANDBOX, "Events", "EventsRequest"),
        (dispatch.AGENT, "ReadStderr", "ReadStreamRequest"),
    ):
        endpoint = dispatcher.find(service, method)
        with pytest.raises(StatusError, match=f"^PERMISSION_DENIED: {message} is blocked$"):
            endpoint.handler(endpoint.request_type(), Call(service, method, (), None, "test"))
    call(dispatcher, "StartContainer")
    assert dispatcher.find(dispatch.SANDBOX, "GetBoot")
    endpoint = dispatcher.find(dispatch.HEALTH, "Check")
    assert endpoint.handler(endpoint.request_type(), None).status == health_pb2.HealthCheckResponse.SERVING


def test_a_list_that_could_not_be_read_says_why_it_refuses(make: Any) -> None:
    dispatcher = make(endpoints=AllowList(frozenset(), "settings: /x.toml line 3"))
    with pytest.raises(StatusError, match=r"CloseStdinRequest is blocked: settings: /x\.toml line 3"):
        call(dispatcher, "CloseStdin")


def test_names_on_the_list_that_stand_for_nothing_are_found() -> None:
    assert find_unknown(ALLOWED) == []
    assert find_unknown(AllowList(frozenset({"CreateContainers", "Check"}))) == ["CreateContainers"]


def test_calls_are_recorded_with_their_status_and_streams_are_not(make: Any) -> None:
    before = len(FLIGHT.read())
    call(make(), "StartContainer", agent_pb2.StartContainerRequest(container_id="c7"))
    with pytest.raises(StatusError):
        call(make(errors.UnknownContainer("c8")), "StartContainer")
    call(make(b"out"), "ReadStdout")
    calls = FLIGHT.read()[before:]
    assert [(one.method, one.container_id, one.finished, one.code) for one in calls] == [
        ("StartContainer", "c7", True, 0),
        ("StartContainer", "", True, 13),
    ]


def test_reflection_sees_every_service(make: Any) -> None:
    assert sorted(make().services) == ["grpc.AgentService", "grpc.Health", "kata.agent.v1.Sandbox"]


def test_check_is_answered_at_once_and_serving(make: Any) -> None:
    endpoint = make().find(dispatch.HEALTH, "Check")
    about = Call(dispatch.HEALTH, "Check", (), None, "test")
    answer = endpoint.handler(health_pb2.CheckRequest(service="ignored"), about)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_version_is_the_one_whose_behaviour_is_kept(make: Any) -> None:
    endpoint = make().find(dispatch.HEALTH, "Version")
    answer = endpoint.handler(health_pb2.CheckRequest(), Call(dispatch.HEALTH, "Version", (), None, "test"))
    assert (answer.grpc_version, answer.agent_version) == ("0.0.1", "3.21.0")


@pytest.mark.parametrize(
    ("method", "error", "code"),
    [
        ("StartContainer", errors.UnknownContainer("c"), Code.INTERNAL),
        ("CloseStdin", errors.UnknownContainer("c"), Code.INVALID_ARGUMENT),
        ("TtyWinResize", errors.NoTerminal(), Code.UNAVAILABLE),
        ("StartContainer", OSError(errno.EIO, "x"), Code.INTERNAL),
        ("StartContainer", ExceptionGroup("g", [errors.Denied("blocked")]), Code.PERMISSION_DENIED),
    ],
)
def test_failure_becomes_its_status_and_one_line(
    method: str, error: Exception, code: Code, make: Any, pipe: tuple[int, int]
) -> None:
    with pytest.raises(StatusError) as caught:
        call(make(error), method)
    assert caught.value.code == code
    (record,) = records(pipe)
    assert record["method"] == method
    assert record["status"] == code.name
    assert record["error"] == caught.value.message
    assert int(record["duration-us"]) >= 0
    assert "trace" not in record


def test_failure_carries_stage_errno_path_and_hint_as_a_detail(make: Any) -> None:
    with pytest.raises(StatusError) as caught:
        call(make(OSError(errno.ENOENT, "mount: No such file or directory", "/run/x")), "StartContainer")
    ((type_url, value),) = caught.value.details
    detail = sandbox_pb2.ErrorDetail.FromString(value)
    assert type_url == "type.googleapis.com/kata.agent.v1.ErrorDetail"
    assert (detail.stage, detail.errno_name, detail.path) == ("StartContainer: mount", "ENOENT", "/run/x")
    assert detail.errno == errno.ENOENT
    assert "the guest's" in detail.hint


def test_failure_about_a_container_is_noted_for_why_and_the_end_of_a_stream_is_none(make: Any) -> None:
    dispatcher = make(errors.UnknownContainer("c"))
    with pytest.raises(StatusError):
        call(dispatcher, "StartContainer", agent_pb2.StartContainerRequest(container_id="c"))
    assert [noted[:2] for noted in dispatcher._agent.noted] == [("c", "StartContainer")]
    dispatcher = make(errors.EndOfOutput())
    with pytest.raises(StatusError) as caught:
        call(dispatcher, "ReadStdout", agent_pb2.ReadStreamRequest(container_id="c"))
    assert caught.value.details == ()
    assert dispatcher._agent.noted == []


def test_our_own_service_answers_with_the_error_s_own_code_and_streams_are_mapped_too(make: Any) -> None:
    dispatcher = make()
    endpoint = dispatcher.find(dispatch.SANDBOX, "Events")
    about = Call(dispatch.SANDBOX, "Events", (), None, "test")
    assert endpoint.server_streaming
    with pytest.raises(StatusError, match="it is `TOKEN") as caught:
        endpoint.handler(sandbox_pb2.EventsRequest(cursor="nonsense"), about)
    assert caught.value.code == Code.INVALID_ARGUMENT

    async def first() -> sandbox_pb2.Event:
        dispatcher._agent.events.emit("created", "c1")
        stream = endpoint.handler(sandbox_pb2.EventsRequest(), about)
        async with aclosing(stream):
            event: sandbox_pb2.Event = await anext(stream)
        return event

    event = run_async(first())
    assert (event.kind, event.container_id, event.sequence) == (sandbox_pb2.CONTAINER_CREATED, "c1", 1)


def test_defect_is_logged_with_its_trace_and_without_values(make: Any, pipe: tuple[int, int]) -> None:
    with pytest.raises(StatusError):
        call(make(ZeroDivisionError("division by zero")), "StartContainer")
    (record,) = records(pipe)
    assert record["level"] == "ERRO"
    assert "test_agent_dispatch.py" in record["trace"]


def test_change_of_a_life_cycle_is_logged_by_its_ids_alone(make: Any, pipe: tuple[int, int]) -> None:
    call(make(), "StartContainer", agent_pb2.StartContainerRequest(container_id="c1"))
    (record,) = records(pipe)
    assert (record["msg"], record["container-id"], record["level"]) == ("container started", "c1", "INFO")


def test_other_success_is_not_logged(make: Any, pipe: tuple[int, int]) -> None:
    call(make(), "CloseStdin")
    call(make(b"secret"), "ReadStdout")
    assert records(pipe) == []


def test_end_of_output_is_a_failure_that_everyone_expects(make: Any, pipe: tuple[int, int]) -> None:
    with pytest.raises(StatusError, match="INTERNAL: read meet eof"):
        call(make(errors.EndOfOutput()), "ReadStdout")
    assert records(pipe) == []


def test_bytes_that_wait_are_answered_at_once(make: Any) -> None:
    assert call(make(b"out"), "ReadStdout") == agent_pb2.ReadStreamResponse(data=b"out")


def test_bytes_that_come_later_are_awaited(make: Any) -> None:
    async def later() -> bytes:
        return b"later"

    assert call(make(later()), "ReadStderr") == agent_pb2.ReadStreamResponse(data=b"later")


@pytest.mark.parametrize("length", [1, 127, 128, 32768, 1 << 21])
def test_pipe_reply_passes_through_with_what_stands_before_its_data(make: Any, length: int) -> None:
    reply = PipeReply()
    reply.length = length
    assert call(make(reply), "ReadStdout") is reply
    whole = agent_pb2.ReadStreamResponse(data=bytes(length)).SerializeToString()
    assert reply.payload_head + bytes(length) == whole


def test_container_without_a_spec_is_refused(make: Any) -> None:
    request = agent_pb2.CreateContainerRequest(container_id="c1")
    with pytest.raises(StatusError, match="no OCI spec"):
        call(make(), "CreateContainer", request)
