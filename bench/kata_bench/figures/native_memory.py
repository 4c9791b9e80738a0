"""Memory of the agent alone on the machine: for comparison over time, the budgets are for the guest."""

from __future__ import annotations

from pathlib import Path

from kata_bench.native import check, run_agent
from kata_bench.result import Effort, Result
from kata_bench.rollup import parse_rollup


def measure_native_memory(_: Effort) -> list[Result]:
    """`native-anonymous` and `native-proportional` in MB."""
    with run_agent() as agent, agent.connect() as client:
        check(client)
        memory = parse_rollup(Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text())
    return [
        Result("native-anonymous", memory.anonymous_mb),
        Result("native-proportional", memory.proportional_mb),
    ]
