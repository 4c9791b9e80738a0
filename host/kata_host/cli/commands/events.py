"""`kata-agent-ctl events`: what happened in a guest, and with `--follow` what happens."""

from __future__ import annotations

import argparse
import json
from contextlib import aclosing

from kata_host.cli.table import format_exit, format_time
from kata_host.cli.target import add_target_options, find_address, open_service
from kata_host.message_json import dump_message
from kata_host.sandbox_service import follow
from kata_protocols.gen import sandbox_pb2 as pb

_EPILOG = """examples:
  kata-agent-ctl events                         everything that is kept
  kata-agent-ctl events --follow --json         for a program: each event has the cursor to go on from
  kata-agent-ctl events --since 1f0c93ab.17     from that cursor on; what is gone is shown as a gap

--follow outlives the agent: when PID 1 has started it anew, the events go on where they were."""
_LIMIT = 1024


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "events", help="show what happened in a guest", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("container", nargs="?", default="", metavar="CONTAINER", help="only this one's")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    parser.add_argument("--since", default="", metavar="CURSOR", help="begin there")
    parser.add_argument("--new", action="store_true", help="begin with the next event (with --follow)")
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Print what is there, then what comes."""
    if options.follow:
        request = pb.EventsRequest(cursor=options.since, only_new=options.new, container_id=options.container)
        async with aclosing(follow(find_address(options), request)) as events:
            async for event in events:
                show(event, as_json=options.json)
        return 0
    cursor = options.since
    async with open_service(options) as service:
        while True:
            answer = await service.poll_events(
                pb.PollEventsRequest(cursor=cursor, container_id=options.container, limit=_LIMIT)
            )
            for event in answer.events:
                show(event, as_json=options.json)
            if cursor == answer.cursor or not answer.events:
                return 0
            cursor = answer.cursor


def show(event: pb.Event, *, as_json: bool) -> None:
    """One line; at once, for whoever reads along."""
    print(json.dumps(dump_message(event)) if as_json else describe(event), flush=True)


def describe(event: pb.Event) -> str:
    """An event for people."""
    kind = pb.EventKind.Name(event.kind).lower().replace("_", " ")
    who = event.container_id + (f"/{event.exec_id}" if event.exec_id else "")
    words = [format_time(event.time_ns), kind, who, _explain(event), event.text]
    return "  ".join(word for word in words if word)


def _explain(event: pb.Event) -> str:
    match event.kind:
        case pb.EXITED:
            return format_exit(event.exit)
        case pb.OOM:
            limit = event.oom.limit or "none: the guest itself has no memory left"
            return f"{event.oom.kills} killed, limit {limit}"
        case pb.AGENT_RESTARTED:
            return f"life {event.restart.life}: the one before ended by {event.restart.reason}"
        case pb.AGENT_UPGRADED:
            return f"life {event.restart.life}: it runs from {event.restart.code}"
        case pb.RESUMED:
            return f"copy {event.generation.number} of the machine: {event.generation.id}"
        case pb.GAP if event.gap.first == event.gap.end:
            return event.gap.reason
        case pb.GAP:
            return f"events {event.gap.first} to {event.gap.end - 1} are missing: {event.gap.reason}"
        case pb.PRESSURE:
            met = event.pressure
            waited = f"waited {met.stall_us // 1000} ms of {met.window_us // 1000}"
            return f"{met.resource}: {waited}, {met.average:g} % of the last 10 s"
    return ""
