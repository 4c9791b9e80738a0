"""`Sandbox/Events` and `PollEvents`: the history, as a stream or in pieces, from a cursor on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kata_agent import events
from kata_agent.errors import InvalidRequest
from kata_protocols.gen import sandbox_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from kata_agent.agent import Agent
    from kata_agent.events import Event, EventHub

BATCH = 64
POLL_LIMIT = 256
MAX_POLL_LIMIT = 1024
MAX_WAIT_S = 600.0
ABOUT_ALL = (events.RESTARTED, events.UPGRADED, events.RESUMED, events.HUNG, events.GAP)
"""Kinds that a filter by container lets through."""

KINDS = {
    events.GAP: pb.GAP,
    events.CREATED: pb.CONTAINER_CREATED,
    events.STARTED: pb.STARTED,
    events.EXITED: pb.EXITED,
    events.OOM: pb.OOM,
    events.REMOVED: pb.CONTAINER_REMOVED,
    events.RESTARTED: pb.AGENT_RESTARTED,
    events.HUNG: pb.AGENT_HUNG,
    events.PRESSURE: pb.PRESSURE,
    events.UPGRADED: pb.AGENT_UPGRADED,
    events.DEVICE: pb.DEVICE,
    events.RESUMED: pb.RESUMED,
}


def stream_events(agent: Agent, request: pb.EventsRequest) -> AsyncGenerator[pb.Event, None]:
    """Every event from the cursor on, as it happens, until the client leaves."""
    number, gap = find(agent.events, request.cursor, only_new=request.only_new)
    return _follow(agent.events, number, gap, request.container_id)


async def poll_events(agent: Agent, request: pb.PollEventsRequest) -> pb.PollEventsResponse:
    """What there is from the cursor on; when there is nothing, the first that comes within the wait."""
    hub = agent.events
    number, gap = find(hub, request.cursor, only_new=request.only_new)
    limit = min(request.limit or POLL_LIMIT, MAX_POLL_LIMIT)
    found = [] if gap is None else [gap]
    try:
        async with asyncio.timeout(min(request.wait_ms / 1000, MAX_WAIT_S)):
            while True:
                taken, number = _take(hub, number, limit - len(found), request.container_id)
                found += taken
                if found:
                    break
                await hub.wait_for(number)
    except TimeoutError:
        pass  # nothing has come: the answer is empty, and its cursor asks on
    return pb.PollEventsResponse(
        events=[encode_event(hub, event) for event in found], cursor=hub.cursor(number)
    )


def find(hub: EventHub, cursor: str, *, only_new: bool) -> tuple[int, Event | None]:
    """Where a reader begins. Raises `InvalidRequest`."""
    try:
        return hub.find(cursor, only_new=only_new)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


async def _follow(
    hub: EventHub, number: int, gap: Event | None, container_id: str
) -> AsyncGenerator[pb.Event, None]:
    if gap is not None:
        yield encode_event(hub, gap)
    while True:
        await hub.wait_for(number)
        taken, number = _take(hub, number, BATCH, container_id)
        for event in taken:
            yield encode_event(hub, event)


def _take(hub: EventHub, number: int, limit: int, container_id: str) -> tuple[list[Event], int]:
    """The next events that are wanted, the gap before them, and the number to go on with."""
    found = []
    lost = hub.is_lost(number)
    if lost is not None:
        found.append(lost)
        number = int(lost.fields["end"])
    for event in hub.since(number, max(0, limit - len(found))):
        number = event.sequence + 1
        if container_id in ("", event.container_id) or event.kind in ABOUT_ALL:
            found.append(event)
    return found, number


def encode_event(hub: EventHub, event: Event) -> pb.Event:
    """An event's message."""
    fields = event.fields
    after = int(fields["end"]) if event.kind == events.GAP else event.sequence + 1
    message = pb.Event(
        cursor=hub.cursor(after),
        sequence=event.sequence,
        time_ns=event.time_ns,
        kind=KINDS[event.kind],
        container_id=event.container_id,
        exec_id=event.exec_id,
        text=fields.get("text", ""),
    )
    match event.kind:
        case events.GAP:
            message.gap.CopyFrom(
                pb.Gap(first=int(fields["first"]), end=int(fields["end"]), reason=fields["reason"])
            )
        case events.EXITED:
            message.exit.CopyFrom(encode_exit(event))
        case events.OOM:
            message.oom.CopyFrom(pb.Oom(kills=int(fields["kills"]), limit=fields["limit"]))
        case events.PRESSURE:
            message.pressure.CopyFrom(encode_pressure(fields))
        case events.RESUMED:
            message.generation.CopyFrom(pb.Generation(number=int(fields["number"]), id=fields["id"]))
        case events.RESTARTED | events.UPGRADED:
            message.restart.CopyFrom(
                pb.Restart(life=int(fields["life"]), reason=fields["reason"], code=fields.get("code", ""))
            )
    return message


def encode_pressure(fields: dict[str, str]) -> pb.Pressure:
    """The limit that was met, and the figures of that moment."""
    return pb.Pressure(
        resource=fields["resource"],
        stall_us=int(fields["stall_us"]),
        window_us=int(fields["window_us"]),
        average=float(fields["average"]),
        missed=int(fields["missed"]),
    )


def encode_exit(event: Event) -> pb.Exit:
    """The exit of an `exited` event."""
    fields = event.fields
    message = pb.Exit(
        container_id=event.container_id,
        exec_id=event.exec_id,
        pid=int(fields["pid"]),
        time_ns=event.time_ns,
        oom="oom" in fields,
    )
    if "signal" in fields:
        message.signal = int(fields["signal"])
    else:
        message.code = int(fields["code"])
    return message


HANDLERS = {"Events": stream_events, "PollEvents": poll_events}
