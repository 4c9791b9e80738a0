"""The policy that a guest's calls ask. All but this look for one is imported where there is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata_agent.agent import Agent

DIRECTORY = "/run/kata-agent/policy"
DEFAULT_FILE = "/etc/kata-opa/default-policy.rego"


def open_gate(agent: Agent, owners: str | None) -> None:
    """Ask the policy that is in force from the start, if any: set before this agent, the owner's, or a file."""
    file = agent.config.policy_file
    kept = agent.supervised and os.path.exists(f"{DIRECTORY}/policy.rego")
    if kept or owners is not None or file or os.path.exists(DEFAULT_FILE):
        from kata_agent.policy.opening import make_gate

        agent.gate = make_gate(agent)
        agent.gate.begin(file or DEFAULT_FILE, owners)
