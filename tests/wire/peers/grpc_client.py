"""A gRPC peer: grpcio's C core as a client of our server. Runs as its own process, `python grpc_client.py PATH`.

Its own process because grpcio's reflection package and grpclib's register the same messages. Prints one line for
each check and exits 1 on the first failure. The messages are ours; what is tested is everything below them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]  # no stubs
    ProtoReflectionDescriptorDatabase,
)

from kata_protocols.gen import health_pb2, sandbox_pb2

TIMEOUT_S = 30


class Peer:
    """One channel to the server under test."""

    def __init__(self, path: str) -> None:
        self.channel = grpc.insecure_channel(
            f"unix:{path}", options=[("grpc.max_receive_message_length", -1)]
        )

    def call(self, path: str, word: str = "", **options: Any) -> Any:
        answer = health_pb2.HealthCheckResponse if path.endswith("Check") else health_pb2.VersionCheckResponse
        method = self.channel.unary_unary(
            path,
            request_serializer=health_pb2.CheckRequest.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return method(health_pb2.CheckRequest(service=word), **{"timeout": TIMEOUT_S, **options})

    def failure(self, path: str, word: str = "", **options: Any) -> tuple[str, str]:
        try:
            self.call(path, word, **options)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"{path} {word}: succeeded")

    def check(self) -> None:
        assert self.call("/grpc.Health/Check").status == health_pb2.HealthCheckResponse.SERVING

    def metadata(self) -> None:
        answer = self.call("/grpc.Health/Version", "metadata", metadata=(("traceparent", "00-1"),))
        assert "traceparent=00-1" in answer.grpc_version.split(","), answer

    def statuses(self) -> None:
        found = [
            self.failure("/grpc.Health/Version", "fail"),
            self.failure("/grpc.Health/Version", "raise"),
            self.failure("/grpc.Health/Version", "zip" * 1000, compression=grpc.Compression.Gzip),
            self.failure("/grpc.Health/Nope"),
            self.failure("/no.Such/Check"),
            self.failure("/grpc.AgentService/SetPolicy"),
        ]
        assert found == [
            ("FAILED_PRECONDITION", "not now"),
            ("UNKNOWN", "RuntimeError: on purpose"),
            ("UNIMPLEMENTED", "compressed messages are not supported"),
            ("UNIMPLEMENTED", "Method not found"),
            ("UNIMPLEMENTED", "Method not found"),
            ("NOT_FOUND", "/grpc.AgentService/SetPolicy is not supported"),
        ], found

    def details(self) -> None:
        try:
            self.call("/grpc.Health/Version", "fail")
        except grpc.RpcError as error:
            trailers: dict[str, Any] = {item.key: item.value for item in error.trailing_metadata()}
            assert b"type.test/x" in trailers["grpc-status-details-bin"], trailers
        else:
            raise AssertionError("succeeded")

    def malformed(self) -> None:
        method: Any = self.channel.unary_unary(
            "/grpc.Health/Check", request_serializer=None, response_deserializer=None
        )
        try:
            method(b"\x0a\x05abc", timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            found = (error.code().name, error.details())
            assert found == ("UNKNOWN", "payload does not parse as grpc.CheckRequest"), found
        else:
            raise AssertionError("succeeded")

    def deadline(self) -> None:
        assert self.failure("/grpc.Health/Version", "wait", timeout=0.5)[0] == "DEADLINE_EXCEEDED"
        self.check()

    def concurrent(self) -> None:
        words = [f"echo {number}" for number in range(100)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda word: self.call("/grpc.Health/Version", word).grpc_version, words))
        assert answers == words

    def large(self) -> None:
        word = "x" * (4 * 1024 * 1024 - 100)
        assert self.call("/grpc.Health/Version", word).grpc_version == word
        assert self.failure("/grpc.Health/Version", word + "x" * 200)[0] == "RESOURCE_EXHAUSTED"
        assert self.failure("/grpc.Health/Version", "grow " + word)[0] == "INVALID_ARGUMENT"
        self.check()

    def _events(self, word: str, timeout_s: float = TIMEOUT_S) -> list[str]:
        method = self.channel.unary_stream(
            "/kata.agent.v1.Sandbox/Events",
            request_serializer=sandbox_pb2.EventsRequest.SerializeToString,
            response_deserializer=sandbox_pb2.Event.FromString,
        )
        seen: list[str] = []
        events = method(sandbox_pb2.EventsRequest(cursor=word), timeout=timeout_s)
        try:
            seen.extend(event.cursor for event in events)
        except grpc.RpcError as error:
            seen.append(error.code().name)
        return seen

    def stream(self) -> None:
        assert self._events("count 1000") == [str(number) for number in range(1000)]
        assert self._events("count 0") == []
        assert self._events("fail 2") == ["0", "1", "FAILED_PRECONDITION"]
        assert self._events("refuse") == ["INVALID_ARGUMENT"]
        late = self._events("hang", 0.5)  # the event that there is may come too late
        assert late in (["0", "DEADLINE_EXCEEDED"], ["DEADLINE_EXCEEDED"]), late
        self.check()

    def reflection(self) -> None:
        database = ProtoReflectionDescriptorDatabase(self.channel)
        names = list(database.get_services())
        assert {"grpc.Health", "grpc.AgentService"} <= set(names), names
        service = DescriptorPool(database).FindServiceByName("grpc.AgentService")
        assert len(service.methods) == 41


def main(path: str) -> None:
    peer = Peer(path)
    checks: list[Callable[[], None]] = [
        peer.check,
        peer.metadata,
        peer.statuses,
        peer.details,
        peer.malformed,
        peer.deadline,
        peer.concurrent,
        peer.large,
        peer.stream,
        peer.reflection,
    ]
    for check in checks:
        check()
        sys.stdout.write(f"ok {check.__name__}\n")
    peer.channel.close()


if __name__ == "__main__":
    main(sys.argv[1])
