"""`GetMetrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_protocols.gen import agent_pb2

if TYPE_CHECKING:
    from kata_agent.agent import Agent


def get_metrics(agent: Agent, _request: agent_pb2.GetMetricsRequest) -> agent_pb2.Metrics:
    """Figures of the agent and the guest, in Prometheus' text format."""
    return agent_pb2.Metrics(metrics=agent.metrics.scrape())


HANDLERS = {"GetMetrics": get_metrics}
