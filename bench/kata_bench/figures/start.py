"""From starting the agent's process to the answer of its first Check, the connection's retries included."""

from __future__ import annotations

import time

from kata_bench.native import check, run_agent
from kata_bench.result import Effort, Result, median_result


def measure_start(effort: Effort) -> list[Result]:
    """`check-start` in ms."""
    samples = []
    for _ in range(effort.pick(15, 3)):
        begin = time.perf_counter()
        with run_agent(bare=True) as agent, agent.connect() as client:
            check(client)
            samples.append((time.perf_counter() - begin) * 1e3)
    return [median_result("check-start", samples)]
