"""What the agent says it is. Pure constants.

The agent's version is that of the Kata agent whose behaviour it keeps: hosts show it to people and compare it with
their own, and nothing in them would know ours. The project's version stands in the commit field.
"""

from __future__ import annotations

API_VERSION = "0.0.1"
AGENT_VERSION = "3.21.0"
PROJECT_VERSION = "0.1.0"

STATE_VERSION = 1
"""Of all that an agent leaves for the next: state files, folders, and names in PID 1's store. An agent that does not
know it must not guess: before an upgrade it is refused, after a restart it says so to PID 1 and ends."""
STATE_KNOWN = (1,)
"""Versions that this code can go on with."""

# What Kata's agent calls features chosen when it was built; hosts and people look for these names.
SECCOMP = "seccomp"
POLICY = "agent-policy"


def extra_features() -> tuple[str, ...]:
    """They are sorted; a policy can be set where its engine is installed."""
    from kata_policy.extension import find_extension

    return (POLICY, SECCOMP) if find_extension() else (SECCOMP,)


def version_line() -> str:
    """The line of `--version`, in the form that Kata's tools parse."""
    features = ", ".join(f'"{feature}"' for feature in extra_features())
    return (
        f"kata-agent version {AGENT_VERSION} (api version: {API_VERSION}, "
        f"commit version: {AGENT_VERSION}-kata-guest-{PROJECT_VERSION}, type: python, "
        f"extra-features: [{features}])"
    )
