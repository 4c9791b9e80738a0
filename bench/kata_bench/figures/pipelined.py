"""Check pipelined on one connection: frames made beforehand, a window of calls under way, every answer looked at."""

from __future__ import annotations

import socket
import time

from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import HEADER, HEALTH, RESPONSE, connect, drain, encode_call
from kata_protocols.gen import health_pb2, ttrpc_pb2

BATCH = 128
WINDOW = 4


def make_batches(calls: int) -> list[bytes]:
    """Frames of `calls` Checks with ascending stream ids, `BATCH` in each piece."""
    payload = health_pb2.CheckRequest().SerializeToString()
    frames = [encode_call(2 * index + 1, HEALTH, "Check", payload) for index in range(calls)]
    return [b"".join(frames[index : index + BATCH]) for index in range(0, calls, BATCH)]


def time_batches(connection: socket.socket, batches: list[bytes], answer_bytes: int) -> tuple[float, bytes]:
    """Seconds until everything is answered, with at most `WINDOW` batches under way; and the answers."""
    answers: list[bytes] = []
    begin = time.perf_counter()
    for batch in batches[:WINDOW]:
        connection.sendall(batch)
    for batch in [*batches[WINDOW:], *([b""] * WINDOW)]:
        answers += drain(connection, answer_bytes * BATCH)
        if batch:
            connection.sendall(batch)
    return time.perf_counter() - begin, b"".join(answers)


def count_good(answers: bytes) -> int:
    """How many answers there are, each for a stream of its own. ValueError for one that is bad."""
    streams = set()
    position = 0
    while position < len(answers):
        length, stream, kind, _ = HEADER.unpack_from(answers, position)
        start = position + HEADER.size
        if kind != RESPONSE or ttrpc_pb2.Response.FromString(answers[start : start + length]).status.code:
            raise ValueError(f"the answer for stream {stream} is not a good one")
        streams.add(stream)
        position = start + length
    return len(streams)


def measure_pipelined(effort: Effort) -> list[Result]:
    """`check-pipelined` in thousands of calls a second."""
    samples = []
    calls = BATCH * effort.pick(400, 20)
    batches = make_batches(calls)
    with run_agent() as agent:
        agent.connect().__exit__()
        for _ in range(effort.pick(7, 2)):
            with connect(agent.address, 10) as connection:
                connection.sendall(encode_call(2**31 - 1, HEALTH, "Check", b""))
                answer_bytes = len(connection.recv(4096))
                seconds, answers = time_batches(connection, batches, answer_bytes)
            if count_good(answers) != calls:
                raise ValueError(f"{count_good(answers)} calls answered of {calls}")
            samples.append(calls / seconds / 1e3)
    return [median_result("check-pipelined", samples, f"{BATCH * WINDOW} calls under way")]
