"""The figures of a container that runs: what a host asks for every few seconds, for each container."""

from __future__ import annotations

import time

from kata_bench import container
from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import AGENT
from kata_protocols.gen import agent_pb2


def measure_stats(effort: Effort) -> list[Result]:
    """`stats` in us: one StatsContainer after the other. How many files there are depends on the controllers."""
    repeats = effort.pick(3000, 20)
    request = agent_pb2.StatsContainerRequest(container_id="figures")
    samples = []
    with run_agent() as agent, agent.connect() as client:
        root = str(container.make_root(agent.folder / "root"))
        container.create_sandbox(client)
        container.create(client, container.make_request("figures", root, ["sleep", "1000"]))
        container.start(client, "figures")
        for _ in range(repeats):
            begin = time.perf_counter()
            answer = client.call(AGENT, "StatsContainer", request, agent_pb2.StatsContainerResponse)
            samples.append((time.perf_counter() - begin) * 1e6)
        if not answer.cgroup_stats.cpu_stats.cpu_usage.total_usage:
            raise RuntimeError("a container that runs has used no time")
        container.kill(client, "figures")
    return [median_result("stats", samples)]
