"""A container's life and an exec, one after the other."""

from __future__ import annotations

import time

from kata_bench import container
from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import AGENT, CallFailed, Client
from kata_protocols.gen import agent_pb2
from kata_protocols.gen.empty_pb2 import Empty


def time_cycle(client: Client, root: str, name: str) -> float:
    """Milliseconds of one life of `true`."""
    request = container.make_request(name, root, ["true"])
    begin = time.perf_counter()
    container.run_to_end(client, request)
    return (time.perf_counter() - begin) * 1e3


def time_exec(client: Client, container_id: str, exec_id: str) -> float:
    """Milliseconds of one exec of `true` in a container that runs."""
    process = container.make_process(["true"])
    request = agent_pb2.ExecProcessRequest(container_id=container_id, exec_id=exec_id, process=process)
    begin = time.perf_counter()
    client.call(AGENT, "ExecProcess", request, Empty)
    status = container.wait(client, container_id, exec_id)
    if status != 0:
        raise RuntimeError(f"exec of true exited with {status}")
    return (time.perf_counter() - begin) * 1e3


def time_missing(client: Client, container_id: str, exec_id: str) -> float:
    """Milliseconds until an exec of a program that is not there is refused."""
    process = container.make_process(["/no/such/program"])
    request = agent_pb2.ExecProcessRequest(container_id=container_id, exec_id=exec_id, process=process)
    begin = time.perf_counter()
    try:
        client.call(AGENT, "ExecProcess", request, Empty)
    except CallFailed:
        return (time.perf_counter() - begin) * 1e3
    raise RuntimeError("exec of a program that is not there was answered with success")


def measure_cycle(effort: Effort) -> list[Result]:
    """`cycle`, `exec` and `exec-missing` in ms."""
    repeats = effort.pick(60, 5)
    with run_agent() as agent, agent.connect() as client:
        root = str(container.make_root(agent.folder / "root"))
        container.create_sandbox(client)
        time_cycle(client, root, "warm")
        cycles = [time_cycle(client, root, f"cycle{number}") for number in range(repeats)]
        container.create(client, container.make_request("long", root, ["sleep", "1000"]))
        container.start(client, "long")
        time_exec(client, "long", "warm")
        execs = [time_exec(client, "long", f"exec{number}") for number in range(repeats)]
        missing = [time_missing(client, "long", f"missing{number}") for number in range(repeats)]
        container.kill(client, "long")
    return [
        median_result("cycle", cycles),
        median_result("exec", execs),
        median_result("exec-missing", missing),
    ]
