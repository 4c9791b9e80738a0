"""Check by one caller, beside a blocking echo server that answers the same client with the same bytes.

Rounds of both alternate, so that whatever else the machine does hits both; the ratio is that of the medians over
all calls. Client and servers are pinned to one CPU each, the client's and theirs: left alone, the scheduler puts a
forked echo server beside its client (10 us a call) and another process elsewhere (50 us), and the ratio measures that.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import HEADER, HEALTH, connect, encode_call
from kata_protocols.gen import health_pb2

_ROUNDS = 40


def time_calls(connection: socket.socket, frame: bytes, count: int) -> list[float]:
    """Microseconds of each of `count` round trips, each answered by one frame."""
    samples = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        connection.sendall(frame)
        answer = connection.recv(4096)
        while len(answer) < HEADER.size or len(answer) < HEADER.size + HEADER.unpack_from(answer)[0]:
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionError("the server closed the connection")
            answer += piece
        samples.append((time.perf_counter_ns() - begin) / 1e3)
    return samples


def serve_echo(listener: socket.socket, answer: bytes) -> None:
    """One connection: everything received is answered by the same bytes."""
    connection, _ = listener.accept()
    with connection:
        while connection.recv(4096):
            connection.sendall(answer)


@contextmanager
def pinned(servers: Iterable[int]) -> Iterator[None]:
    """This process on one CPU and the servers on another, where there are two; undone for this process at the end."""
    before = os.sched_getaffinity(0)
    if len(before) > 1:
        ours, theirs, *_ = sorted(before)
        os.sched_setaffinity(0, {ours})
        for pid in servers:
            os.sched_setaffinity(pid, {theirs})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def run_echo(path: Path, answer: bytes) -> Iterator[tuple[str, int]]:
    """The echo server as a process of its own: its address and pid."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        child = os.fork()
        if child == 0:
            try:
                serve_echo(listener, answer)
            finally:
                os._exit(0)
    try:
        yield f"unix://{path}", child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def measure_check(effort: Effort) -> list[Result]:
    """`check-one` and `check-echo` in us, `check-ratio`."""
    calls = effort.pick(400, 20)
    frame = encode_call(1, HEALTH, "Check", health_pb2.CheckRequest().SerializeToString())
    ours: list[float] = []
    echo: list[float] = []
    with run_agent() as agent:
        agent.connect().__exit__()
        with connect(agent.address, 5) as to_agent:
            to_agent.sendall(frame)
            answer = to_agent.recv(4096)
            with (
                run_echo(agent.folder / "echo.sock", answer) as (address, echo_pid),
                connect(address, 5) as to_echo,
                pinned([agent.process.pid, echo_pid]),
            ):
                time_calls(to_agent, frame, calls)
                time_calls(to_echo, frame, calls)
                for _ in range(effort.pick(_ROUNDS, 4)):
                    ours += time_calls(to_agent, frame, calls)
                    echo += time_calls(to_echo, frame, calls)
    one, other = median_result("check-one", ours), median_result("check-echo", echo)
    ratio = Result("check-ratio", one.value / other.value)
    return [one._replace(samples=()), other._replace(samples=()), ratio]
