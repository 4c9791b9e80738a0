"""Series that no other agent has: calls by duration and failure, the event loop's lag, exits by reason, lives.

Owns: their names. Must not know: who counts them. They begin anew with each life of the agent, as counters may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.durations import BOUNDS_NS, Durations
from kata_agent.metrics.exposition import COUNTER, GAUGE, HISTOGRAM, Family, Sample, item_family, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kata_agent.life import Life


def call_families(durations: Durations) -> Iterator[Family]:
    """The histogram of calls' durations and the failed ones by status."""
    samples: list[Sample] = []
    for method, row in sorted(durations.buckets.items()):
        count = 0
        for bound, here in zip((*BOUNDS_NS, None), row[:-1], strict=True):
            count += here
            le = "+Inf" if bound is None else number(bound / 1e9)
            samples.append(Sample(count, (("le", le), ("method", method)), "_bucket"))
        samples.append(Sample(row[-1] / 1e9, (("method", method),), "_sum"))
        samples.append(Sample(count, (("method", method),), "_count"))
    yield Family(
        "kata_agent_rpc_duration_seconds", HISTOGRAM, "How long calls took, waiting included", tuple(samples)
    )
    failed = (
        Sample(count, (("code", code), ("method", method)))
        for (method, code), count in durations.failures.items()
    )
    yield Family("kata_agent_rpc_failures_total", COUNTER, "Calls answered with an error", tuple(failed))


def life_families(life: Life) -> Iterator[Family]:
    """How late the event loop answered PID 1's heartbeat, and which life of the agent this is."""
    lags = (("last", life.lag_us / 1e6), ("worst", life.worst_lag_us / 1e6))
    yield item_family("kata_agent_loop_lag_seconds", "How late the event loop took a heartbeat", lags)
    yield Family("kata_agent_life", GAUGE, "Number of this life of the agent", (Sample(life.number),))


def exit_families(reasons: Mapping[str, int]) -> Iterator[Family]:
    """Ended processes of containers by how they ended."""
    samples = tuple(Sample(count, (("reason", reason),)) for reason, count in reasons.items())
    yield Family("kata_agent_exits_total", COUNTER, "Ended processes of containers by reason", samples)
