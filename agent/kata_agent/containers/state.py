"""The life of a container as a table: which verb is allowed in which state, and where it leads. Pure."""

from __future__ import annotations

from kata_agent.errors import WrongState

CREATING = "creating"
CREATED = "created"
RUNNING = "running"
PAUSED = "paused"
PAUSED_CREATED = "paused before its start"
STOPPED = "stopped"

# The end of the init process changes no state, only a removal does: hosts go on asking for a container that ended.
TRANSITIONS = {
    ("created", CREATING): CREATED,
    ("start", CREATED): RUNNING,
    ("exec", CREATED): CREATED,
    ("exec", RUNNING): RUNNING,
    ("update", CREATED): CREATED,
    ("update", RUNNING): RUNNING,
    ("update", PAUSED): PAUSED,
    ("update", PAUSED_CREATED): PAUSED_CREATED,
    ("pause", CREATED): PAUSED_CREATED,
    ("pause", RUNNING): PAUSED,
    ("resume", PAUSED): RUNNING,
    # Kata's agent takes it for running from here on, and it could never be started.
    ("resume", PAUSED_CREATED): CREATED,
    ("remove", CREATED): STOPPED,
    ("remove", RUNNING): STOPPED,
    ("remove", PAUSED): STOPPED,
    ("remove", PAUSED_CREATED): STOPPED,
    ("remove", STOPPED): STOPPED,
}


def plan_transition(container_id: str, verb: str, state: str) -> str:
    """The state after this verb; WrongState says why not."""
    after = TRANSITIONS.get((verb, state))
    if after is None:
        allowed = ", ".join(sorted(before for name, before in TRANSITIONS if name == verb))
        raise WrongState(f"failed to {verb} container {container_id}: it is {state}, not {allowed}")
    return after


def plan_observed(state: str, *, frozen: bool) -> str:
    """The state of a container whose freezer was found so: the kernel is right where the record says otherwise."""
    verb = "pause" if frozen else "resume"
    return TRANSITIONS.get((verb, state), state)
