"""`Sandbox/ListExits` and `Why`: what ended, how, and what is known of the reason."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from kata_agent import events
from kata_agent.errors import UnknownContainer
from kata_agent.services.events import encode_event, encode_exit
from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_agent.agent import Agent
    from kata_agent.trail import Signalled


def list_exits(agent: Agent, request: pb.ListExitsRequest) -> pb.ListExitsResponse:
    """The exit ledger: exact code or signal of each process the host asked for."""
    exits = [
        encode_exit(event)
        for event in agent.events.exits()
        if request.container_id in ("", event.container_id)
    ]
    return pb.ListExitsResponse(exits=exits, dropped=agent.events.exits_dropped)


def why(agent: Agent, request: pb.WhyRequest) -> pb.WhyResponse:
    """Everything that is known of a container, there or gone. Raises `UnknownContainer`."""
    container_id = request.container_id
    hub = agent.events
    state = agent.containers.state_of(container_id)
    history = hub.about(container_id)
    ends = [event for event in hub.exits() if (event.container_id, event.exec_id) == (container_id, "")]
    failures = agent.trail.failures(container_id)
    if state == "removed" and not (history or ends or failures):
        raise UnknownContainer(container_id)
    signals = agent.trail.signals(container_id)
    kills = agent.containers.oom_kills(container_id)
    kills = max(kills, sum(int(event.fields["kills"]) for event in history if event.kind == events.OOM))
    answer = pb.WhyResponse(container_id=container_id, state=state, oom_kills=kills)
    if ends:
        answer.exit.CopyFrom(encode_exit(ends[-1]))
    answer.signals.extend(
        pb.SignalSent(time_ns=s.time_ns, exec_id=s.exec_id, signal=s.signal, method=s.method) for s in signals
    )
    answer.failures.extend(pb.Failure(time_ns=f.time_ns, method=f.method, message=f.text) for f in failures)
    answer.events.extend(encode_event(hub, event) for event in history)
    answer.summary = summarize(answer.exit if ends else None, state, signals, bool(failures))
    return answer


def summarize(end: pb.Exit | None, state: str, signals: Sequence[Signalled], failed: bool) -> str:  # noqa: FBT001
    """One sentence for people."""
    if end is None:
        if state == "removed" and failed:
            return "it was never made: see the failed calls"
        return f"it has not ended: it is {state}"
    if end.WhichOneof("how") == "code":
        return (
            "it ended by itself with code 0" if end.code == 0 else f"it ended by itself with code {end.code}"
        )
    name = _name(end.signal)
    if end.oom:
        return f"the kernel killed it ({name}): no memory was left within its limit, or in the guest"
    asked = [s for s in signals if _may_have_caused(s, end)]
    if asked and asked[-1].signal != end.signal:
        return f"{name} ended it, in place of the SIGTERM that the host had sent ({asked[-1].method}): it ignores that"
    if asked:
        return f"{name} ended it, which the host had sent ({asked[-1].method})"
    return f"{name} ended it, which the host had not sent: it, another process or the removal did"


def _may_have_caused(sent: Signalled, end: pb.Exit) -> bool:
    """Whether this signal went to the first process, or to all, before its end. SIGTERM may have become SIGKILL."""
    if sent.exec_id not in ("", sent.container_id) or sent.time_ns > end.time_ns:
        return False
    return sent.signal == end.signal or (sent.signal, end.signal) == (signal.SIGTERM, signal.SIGKILL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


HANDLERS = {"ListExits": list_exits, "Why": why}
