"""Whether this code can go on with what another agent has left: asked before that agent ends, and touching nothing.

Owns the answer; `check` is the one function that every later version must keep, with these words. Must not know who
asks. It runs in an interpreter of its own (`prepare`), with this code's folder first on the path.
"""

from __future__ import annotations

from importlib import import_module

from kata_agent.version import PROJECT_VERSION, STATE_KNOWN
from kata_init import control

CONTAINERS = "containers"
# What an agent that adopts imports; the methods' modules are those of the dispatcher's table.
MODULES = ("agent", "serve", "supervisor", "sandbox", "containers.adopt", "containers.observed", "events")


def check(run_dir: str, state_version: str, control_version: str) -> tuple[list[str], str]:
    """Reasons against taking over (none: it can), and this code's version.

    `run_dir` is where agents leave their state, `state_version` that of the agent which runs now,
    `control_version` of the channel as PID 1 speaks it. More words may be added behind these.
    """
    reasons = []
    if int(control_version) != control.VERSION:
        reasons.append(
            f"PID 1 speaks version {control_version} of the control channel, this agent {control.VERSION}"
        )
    if int(state_version) not in STATE_KNOWN:
        reasons.append(f"the agent's state has version {state_version}, this agent knows {_known()}")
    reasons += [
        f"{path} has version {version}, this agent knows {_known()}"
        for path, version in read_versions(f"{run_dir}/{CONTAINERS}")
        if version not in STATE_KNOWN
    ]
    return reasons or import_everything(), PROJECT_VERSION


def read_versions(work_root: str) -> list[tuple[str, object]]:
    """Every container's state file with its version."""
    import json

    from kata_agent.containers.statefile import FILE, list_works

    found: list[tuple[str, object]] = []
    for work in list_works(work_root):
        path = f"{work}/{FILE}"
        try:
            with open(path, encoding="utf-8") as file:
                found.append((path, json.load(file).get("version")))
        except FileNotFoundError:
            continue  # nothing was made of it yet, or it has just been removed
    return found


def import_everything() -> list[str]:
    """Import what the agent needs once it runs; what cannot be imported is a reason."""
    from kata_agent.dispatch import METHODS

    rows = {module for table in METHODS.values() for module in table.values() if module}
    reasons = []
    for name in (*MODULES, *(f"services.{row}" for row in sorted(rows))):
        try:
            import_module(f"kata_agent.{name}")
        except Exception as error:  # noqa: BLE001 - whatever it is, this code cannot be the agent
            reasons.append(f"kata_agent.{name}: {type(error).__name__}: {error}")
    return reasons


def _known() -> str:
    return " and ".join(map(str, STATE_KNOWN))
