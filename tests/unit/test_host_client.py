"""The client's table of calls, its error helpers, streams, the order of a sandbox's calls, and reconnecting."""

from __future__ import annotations

from typing import Any

import pytest

from kata_host import client as host_client
from kata_host.client import RPCS, AgentClient, is_end_of_stream, is_not_found, is_unimplemented
from kata_host.connect import ReconnectingCaller
from kata_host.sandbox import open_sandbox
from kata_host.spec import ProcessPlan, plan_spec
from kata_host.streams import Process
from kata_protocols import services
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.status import Code, StatusError
from kata_testing.fake_host import FakeCaller, run

EOF = StatusError(Code.INTERNAL, "read meet eof")


def fail(error: Exception) -> Any:
    raise error


def test_the_table_has_exactly_the_methods_of_both_services_with_their_types() -> None:
    contract = {**services.AGENT_SERVICE.methods, **services.HEALTH_SERVICE.methods}
    assert {name: (row.method, row.request, row.response) for name, row in RPCS.items()} == {
        name: (method, method.request_type, method.response_type) for name, method in contract.items()
    }
    assert len(RPCS) == 43


def test_a_call_without_a_timeout_has_the_time_that_katas_runtime_gives_it() -> None:
    caller = FakeCaller()

    async def call() -> None:
        client = AgentClient(caller)
        await client.check()
        await client.wait_process()
        await client.create_container()
        await client.create_sandbox(timeout_s=7)

    run(call())
    assert caller.timeouts == {"Check": 30, "WaitProcess": None, "CreateContainer": 60, "CreateSandbox": 7}


@pytest.mark.parametrize(
    ("helper", "error", "expected"),
    [
        (is_not_found, StatusError(Code.INTERNAL, "container abc not found"), True),
        (is_not_found, StatusError(Code.INTERNAL, "does not exist"), True),
        (is_not_found, StatusError(Code.INTERNAL, "kill: ESRCH: No such process"), True),
        (is_not_found, StatusError(Code.NOT_FOUND, ""), True),
        (is_not_found, StatusError(Code.INTERNAL, "permission denied"), False),
        (is_unimplemented, StatusError(Code.UNIMPLEMENTED, ""), True),
        (
            is_unimplemented,
            StatusError(Code.NOT_FOUND, "/grpc.AgentService/GetMetrics is not supported"),
            True,
        ),
        (is_unimplemented, StatusError(Code.NOT_FOUND, "container"), False),
        (is_end_of_stream, EOF, True),
        (is_end_of_stream, StatusError(Code.INTERNAL, "crun failed"), False),
        (host_client.is_connection_lost, ConnectionLostError("connection closed"), True),
        (host_client.is_connection_lost, EOF, False),
    ],
)
def test_error_helpers_know_what_hosts_tell_apart(helper: Any, error: Exception, expected: bool) -> None:
    assert helper(error) is expected


def test_reading_ends_at_the_error_that_is_the_streams_end_and_asks_for_32_kib() -> None:
    pieces = iter([b"one", b"two"])
    caller = FakeCaller(
        {
            "ReadStdout": lambda _: (
                pb.ReadStreamResponse(data=piece) if (piece := next(pieces, b"")) else fail(EOF)
            )
        }
    )

    async def read() -> list[bytes]:
        return [data async for data in Process(AgentClient(caller), "c", "e").read_stdout()]

    assert run(read()) == [b"one", b"two"]
    assert {getattr(request, "len") for _, request in caller.sent} == {32768}  # noqa: B009 - a field, to mypy none


def test_reading_raises_any_other_error() -> None:
    caller = FakeCaller({"ReadStderr": lambda _: fail(StatusError(Code.PERMISSION_DENIED, "policy"))})

    async def read() -> None:
        async for _ in Process(AgentClient(caller), "c", "e").read_stderr():
            pass

    with pytest.raises(StatusError, match="policy"):
        run(read())


def test_writing_goes_on_after_a_short_write_until_all_is_taken() -> None:
    got = bytearray()

    def take(request: pb.WriteStreamRequest) -> pb.WriteStreamResponse:
        taken = request.data[:10_000]
        got.extend(taken)
        return pb.WriteStreamResponse(len=len(taken))

    data = bytes(range(256)) * 400
    run(Process(AgentClient(FakeCaller({"WriteStdin": take})), "c", "e").write_stdin(data))
    assert bytes(got) == data


def test_a_sandbox_makes_its_calls_in_the_order_of_katas_runtime() -> None:
    caller = FakeCaller()

    async def live() -> None:
        spec = plan_spec(ProcessPlan(["true"]), "/rootfs")
        async with (
            open_sandbox(AgentClient(caller)) as sandbox,
            sandbox.container(spec, "c" * 64) as container,
        ):
            await container.start()
            await container.wait()

    run(live())
    assert caller.names == [
        "Check", "CreateSandbox", "GetGuestDetails", "CreateContainer", "StartContainer", "WaitProcess",
        "SignalProcess", "RemoveContainer", "DestroySandbox",
    ]  # fmt: skip
    requests = dict(caller.sent)
    storage = requests["CreateSandbox"].storages[0]  # type: ignore[attr-defined]
    assert (storage.driver, storage.source) == ("virtio-fs", "kataShared")
    create = requests["CreateContainer"]
    assert isinstance(create, pb.CreateContainerRequest)
    assert (create.container_id, create.exec_id) == ("c" * 64, "c" * 64)
    assert list(create.OCI.Process.Args) == ["true"]
    assert not requests["SignalProcess"].exec_id  # type: ignore[attr-defined]


def test_a_container_whose_start_fails_is_removed_and_the_failure_is_told() -> None:
    caller = FakeCaller(
        {
            "StartContainer": lambda _: fail(StatusError(Code.INTERNAL, "no memory")),
            "SignalProcess": lambda _: fail(StatusError(Code.INTERNAL, "broken")),
            "DestroySandbox": lambda _: fail(ConnectionLostError("closed")),
        }
    )

    async def live() -> None:
        async with open_sandbox(AgentClient(caller)) as sandbox, sandbox.container({}) as container:
            await container.start()

    with pytest.raises(StatusError, match="no memory"):
        run(live())
    assert caller.names[-3:] == ["SignalProcess", "RemoveContainer", "DestroySandbox"]


def make_reconnecting(*callers: FakeCaller) -> ReconnectingCaller:
    waiting = iter(callers)

    async def open_next() -> FakeCaller:
        return next(waiting)

    return ReconnectingCaller(open_next)


LOST = {"WaitProcess": lambda _: fail(ConnectionLostError("closed")), "CreateContainer": lambda _: fail(
    ConnectionLostError("closed"))}  # fmt: skip


def test_a_wait_outlives_the_connection_that_it_began_on() -> None:
    first = FakeCaller(LOST)
    second = FakeCaller({"WaitProcess": lambda _: pb.WaitProcessResponse(status=5)})

    async def wait() -> int:
        caller = make_reconnecting(first, second)
        await caller.open()
        return await Process(AgentClient(caller), "c", "e").wait()

    assert run(wait()) == 5
    assert first.closed


def test_a_call_that_changes_something_is_not_repeated_but_the_next_one_works() -> None:
    first, second = FakeCaller(LOST), FakeCaller()

    async def create() -> None:
        caller = make_reconnecting(first, second)
        await caller.open()
        client = AgentClient(caller)
        with pytest.raises(ConnectionLostError):
            await client.create_container()
        await client.check()

    run(create())
    assert second.names == ["Check"]


def test_a_closed_client_does_not_connect_again() -> None:
    first = FakeCaller(LOST)

    async def close_and_wait() -> None:
        caller = make_reconnecting(first)
        await caller.open()
        await caller.aclose()
        with pytest.raises(ConnectionLostError, match="closed"):
            await AgentClient(caller).wait_process()

    run(close_and_wait())
