"""What an operator's scrape costs the agent: GetMetrics, one after the other."""

from __future__ import annotations

import time

from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import AGENT
from kata_protocols.gen import agent_pb2


def measure_metrics(effort: Effort) -> list[Result]:
    """`metrics` in ms: answered GetMetrics of this machine."""
    samples = []
    with run_agent() as agent, agent.connect() as client:
        for _ in range(effort.pick(300, 10)):
            begin = time.perf_counter()
            answer = client.call(AGENT, "GetMetrics", agent_pb2.GetMetricsRequest(), agent_pb2.Metrics)
            samples.append((time.perf_counter() - begin) * 1e3)
            if "kata_guest_meminfo{" not in answer.metrics:
                raise RuntimeError("metrics without the guest's memory")
    return [median_result("metrics", samples)]
