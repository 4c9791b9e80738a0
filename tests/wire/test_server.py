"""The server over a real socket: answers, statuses, deadlines, many calls, orderly end."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket

import pytest

from kata_protocols import services
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import health_pb2
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc import frame
from kata_protocols.ttrpc.errors import MessageTooLargeError
from kata_protocols.ttrpc.events import ConnectionEnded, ResponseReceived
from kata_protocols.ttrpc.frame import MAX_MESSAGE_BYTES, encode_frame
from kata_testing.wire import CHECK, HEALTH, VERSION, Health, check_frame, outcome, run_async, served


def ask(word: str) -> health_pb2.CheckRequest:
    return health_pb2.CheckRequest(service=word)


def test_check_answers_and_metadata_and_deadline_reach_the_handler() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router()) as here, await here.client() as client:
            assert (await client.call(CHECK, ask(""))).status == health_pb2.HealthCheckResponse.SERVING
            loop = asyncio.get_running_loop()
            asked = loop.time()
            answer = await client.call(
                VERSION, ask("metadata"), timeout_s=20, metadata=(("a", "1"), ("a", "2"))
            )
            assert answer.grpc_version == "a=1,a=2"
            (call,) = health.calls
            assert (call.service, call.method, call.peer) == ("grpc.Health", "Version", "unix")
            assert call.deadline is not None
            assert asked + 20 <= call.deadline <= loop.time() + 20

    run_async(scenario())


def test_statuses_and_texts_of_failures() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here, await here.client() as client:

            async def failure(word: str) -> tuple[Code, str, object]:
                with pytest.raises(StatusError) as caught:
                    await client.call(VERSION, ask(word))
                return caught.value.code, caught.value.message, caught.value.details

            assert await failure("fail") == (Code.FAILED_PRECONDITION, "not now", (("type.test/x", b"\x01"),))
            assert await failure("raise") == (Code.UNKNOWN, "RuntimeError: on purpose", ())
            ((where, error),) = here.errors
            assert where == "grpc.Health/Version from unix"
            assert isinstance(error, RuntimeError)

    run_async(scenario())


@pytest.mark.parametrize(
    ("service", "method", "payload", "code", "text"),
    [
        ("no.Such", "Check", b"", Code.INVALID_ARGUMENT, "no.Such service does not exist"),
        ("grpc.Health", "Nope", b"", Code.UNIMPLEMENTED, "Nope method"),
        ("grpc.AgentService", "Nope", b"", Code.UNIMPLEMENTED, "Nope method"),
        (
            "grpc.AgentService",
            "SetPolicy",
            b"",
            Code.NOT_FOUND,
            "/grpc.AgentService/SetPolicy is not supported",
        ),
        ("grpc.Health", "Check", b"\x0a\x05abc", Code.UNKNOWN, "payload does not parse as grpc.CheckRequest"),
        (
            "grpc.Health",
            "Check",
            b"\x0a\x01\xff",
            Code.UNKNOWN,
            "payload does not parse as grpc.CheckRequest",
        ),
    ],
)
def test_what_cannot_be_dispatched_is_answered(
    service: str, method: str, payload: bytes, code: Code, text: str
) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                await raw.send(raw.codec.send_request(service, method, payload)[1])
                assert await raw.event() == ResponseReceived(1, code, text, (), b"")
                await raw.send(check_frame(raw.codec))
                assert await raw.event() == ResponseReceived(3, 0, "", (), b"\x08\x01")

    run_async(scenario())


def test_the_bytes_of_a_successful_answer() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                await raw.send(check_frame(raw.codec))
                expected = bytes.fromhex("00000006 00000001 02 00 0a00 1202 0801")
                assert await raw.read_exactly(len(expected)) == expected

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 7, 11])
def test_frames_cut_anywhere_are_served(size: int) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                data = b"".join(check_frame(raw.codec) for _ in range(3))
                for start in range(0, len(data), size):
                    await raw.send(data[start : start + size])
                    await asyncio.sleep(0)
                for stream_id in (1, 3, 5):
                    assert await raw.event() == ResponseReceived(stream_id, 0, "", (), b"\x08\x01")

    run_async(scenario())


@pytest.mark.parametrize("excess", [1, 4096])
def test_an_oversized_frame_is_answered_and_the_connection_goes_on(excess: int) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                length = MAX_MESSAGE_BYTES + excess
                raw.codec.send_request(HEALTH.name, "Check", b"")
                await raw.send(encode_frame(1, frame.REQUEST, 0, b"x" * length) + check_frame(raw.codec))
                text = f"message length {length} exceed maximum message size of 4194304"
                assert await raw.event() == ResponseReceived(1, Code.INVALID_ARGUMENT, text, (), b"")
                assert await raw.event() == ResponseReceived(3, 0, "", (), b"\x08\x01")

    run_async(scenario())


def test_messages_near_the_limit_pass_and_answers_beyond_it_are_a_status() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here, await here.client() as client:
            word = "x" * (MAX_MESSAGE_BYTES - 100)
            assert (await client.call(VERSION, ask(word))).grpc_version == word
            with pytest.raises(StatusError, match="exceed maximum message size of 4194304") as caught:
                await client.call(VERSION, ask("grow " + word[:-10]))
            assert caught.value.code is Code.INVALID_ARGUMENT
            with pytest.raises(MessageTooLargeError, match="exceed maximum message size"):
                await client.call(VERSION, ask(word + "x" * 100))
            await client.call(CHECK, ask(""))

    run_async(scenario())


def test_even_streams_garbage_envelopes_and_unknown_types() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            with here.raw() as raw:
                await raw.send(encode_frame(0, 9, 0, b"ignored"))
                for _ in range(2):
                    raw.codec.send_request("", "", b"")
                await raw.send(encode_frame(1, frame.REQUEST, 0, b"\xff"))
                event = await raw.event()
                assert event == ResponseReceived(
                    1, Code.INVALID_ARGUMENT, "request envelope does not parse", (), b""
                )
                await raw.send(encode_frame(4, frame.REQUEST, 0, b""))
                header = await raw.read_exactly(10)
                assert header[4:9] == bytes.fromhex("00000004 02")

    run_async(scenario())


def test_a_deadline_is_answered_in_time_and_the_handler_runs_to_its_end() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router()) as here:
            with here.raw() as raw:
                await raw.send(
                    raw.codec.send_request(HEALTH.name, "Version", b"\x0a\x04wait", timeout_nano=10**7)[1]
                )
                assert await raw.event() == ResponseReceived(1, Code.DEADLINE_EXCEEDED, "timeout", (), b"")
                assert (health.waiting, health.finished, health.cancelled) == (1, 0, 0)
                health.release.set()
                await health.ended.wait()
                await raw.send(check_frame(raw.codec))  # and no second answer before this one
                event = await raw.event()
                assert isinstance(event, ResponseReceived)
                assert event.stream_id == 3
                assert health.finished == 1

    run_async(scenario())


def test_a_deadline_ends_a_handler_that_only_waits() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router(cancel_on_disconnect=True)) as here, await here.client() as client:
            with pytest.raises(StatusError, match="DEADLINE_EXCEEDED: timeout"):
                await client.call(VERSION, ask("wait"), timeout_s=0.02)
            await health.ended.wait()
            assert (health.finished, health.cancelled) == (0, 1)

    run_async(scenario())


def test_check_answers_while_a_thousand_calls_wait() -> None:
    async def scenario() -> None:
        health = Health()
        async with served(health.router()) as here, await here.client() as client:
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(client.call(VERSION, ask("wait"))) for _ in range(1000)]
                await health.wait_started(1000)
                async with asyncio.timeout(20):
                    await client.call(CHECK, ask(""))
                assert not any(wait.done() for wait in waits)
                health.release.set()
            assert {wait.result().grpc_version for wait in waits} == {"waited"}

    run_async(scenario())


def test_any_number_of_connections() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            clients = [await here.client() for _ in range(200)]
            for client in clients:
                await client.call(CHECK, ask(""))
            for client in clients:
                await client.aclose()

    run_async(scenario())


def test_a_connection_that_meets_the_descriptor_limit_is_served_when_there_is_room_again() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            with here.raw() as raw:
                resource.setrlimit(resource.RLIMIT_NOFILE, (raw.sock.fileno() + 1, limits[1]))
                try:
                    await raw.send(check_frame(raw.codec))
                    await here.errors.arrived.wait()
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                assert await raw.event() == ResponseReceived(1, 0, "", (), b"\x08\x01")
            ((where, error),) = here.errors
            assert (where, getattr(error, "errno", None)) == ("accept", errno.EMFILE)

    run_async(scenario())


def test_an_endless_sender_does_not_starve_another_connection() -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here, await here.client() as client:
            with here.raw() as raw:
                blob = b"".join(check_frame(raw.codec) for _ in range(20000))
                async with asyncio.TaskGroup() as group:
                    sender = group.create_task(raw.send(blob))
                    answers = 0
                    while answers < 20000 * 16:
                        answers += len(await raw.receive())
                        await client.call(CHECK, ask(""), timeout_s=20)
                    assert sender.done()

    run_async(scenario(), 120)


class TestShutdown:
    def test_a_running_handler_answers_before_the_connection_closes(self) -> None:
        async def scenario() -> None:
            health = Health()
            async with asyncio.TaskGroup() as group:
                async with served(health.router()) as here:
                    client = await here.client()
                    call = group.create_task(client.call(VERSION, ask("wait")))
                    await health.wait_started(1)
                    asyncio.get_running_loop().call_later(0.05, health.release.set)
                assert (await call).grpc_version == "waited"
                await client.wait_closed()

        run_async(scenario())

    def test_a_handler_that_only_waits_is_told_unavailable(self) -> None:
        async def scenario() -> None:
            health = Health()
            async with asyncio.TaskGroup() as group:
                async with served(health.router(cancel_on_disconnect=True)) as here:
                    client = await here.client()
                    call = group.create_task(outcome(client.call(VERSION, ask("wait"))))
                    await health.wait_started(1)
                error = await call
                await client.wait_closed()
            assert isinstance(error, StatusError)
            assert (error.code, error.message) == (Code.UNAVAILABLE, "server is shutting down")
            assert health.cancelled == 1

        run_async(scenario())

    def test_a_handler_that_never_ends_is_cut_off_after_the_grace(self) -> None:
        async def scenario() -> None:
            health = Health()
            async with asyncio.TaskGroup() as group:
                async with served(health.router(), grace_s=0.05) as here:
                    client = await here.client()
                    call = group.create_task(outcome(client.call(VERSION, ask("wait"))))
                    await health.wait_started(1)
                assert isinstance(await call, ConnectionLostError)
            assert health.cancelled == 1

        run_async(scenario())

    def test_the_error_of_the_body_comes_out_unwrapped(self) -> None:
        async def scenario() -> None:
            async with served(Health().router()):
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            run_async(scenario())


def test_services_that_are_not_served_do_not_exist() -> None:
    async def scenario() -> None:
        health = Health()
        router = health.router()
        del router.services["grpc.AgentService"]
        async with served(router) as here, await here.client() as client:
            method = services.AGENT_SERVICE.methods["SetPolicy"]
            with pytest.raises(StatusError, match=r"grpc\.AgentService service does not exist"):
                await client.call(method, method.request_type())

    run_async(scenario())


def test_bytes_after_the_clients_half_close_are_still_answered() -> None:
    async def scenario() -> None:

        async with served(Health().router()) as here:
            with here.raw() as raw:
                await raw.send(check_frame(raw.codec))
                raw.sock.shutdown(socket.SHUT_WR)
                assert await raw.event() == ResponseReceived(1, 0, "", (), b"\x08\x01")
                assert isinstance(await raw.event(), ConnectionEnded)

    run_async(scenario())
