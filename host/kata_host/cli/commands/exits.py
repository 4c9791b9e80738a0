"""`kata-agent-ctl exits` and `why`: what ended in a guest, how, and what is known of the reason."""

from __future__ import annotations

import argparse
import json

from kata_host.cli.commands.events import describe
from kata_host.cli.table import format_exit, format_signal, format_table, format_time
from kata_host.cli.target import add_target_options, open_service
from kata_host.message_json import dump_message
from kata_protocols.gen import sandbox_pb2 as pb


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both verbs' command lines."""
    parser = verbs.add_parser("exits", help="list what has ended in a guest, and how")
    parser.add_argument("container", nargs="?", default="", metavar="CONTAINER", help="only this one's")
    add_target_options(parser)
    parser.set_defaults(run=run)
    why = verbs.add_parser("why", help="tell why a container ended, also when it is removed")
    why.add_argument("container", metavar="CONTAINER")
    add_target_options(why)
    why.set_defaults(run=run_why)


async def run(options: argparse.Namespace) -> int:
    """Print the exit ledger."""
    async with open_service(options) as service:
        answer = await service.list_exits(options.container)
    if options.json:
        for end in answer.exits:
            print(json.dumps(dump_message(end)))
        return 0
    rows = [
        (format_time(end.time_ns), end.container_id, end.exec_id or "-", end.pid, format_exit(end))
        for end in answer.exits
    ]
    print(format_table(("ENDED", "CONTAINER", "EXEC", "PID", "HOW"), rows))
    if answer.dropped:
        print(f"{answer.dropped} older ones are not kept any more")
    return 0


async def run_why(options: argparse.Namespace) -> int:
    """Print the reason first, then what it is taken from."""
    async with open_service(options) as service:
        answer = await service.why(options.container)
    if options.json:
        print(json.dumps(dump_message(answer)))
    else:
        print("\n".join(explain(answer)))
    return 0


def explain(answer: pb.WhyResponse) -> list[str]:
    """The lines of an answer."""
    lines = [f"{answer.container_id} ({answer.state}): {answer.summary}"]
    if answer.HasField("exit"):
        lines.append(f"ended   {format_time(answer.exit.time_ns)}  {format_exit(answer.exit)}")
    if answer.oom_kills:
        lines.append(f"memory  {answer.oom_kills} of its processes were killed for want of memory")
    for sent in answer.signals:
        target = f"/{sent.exec_id}" if sent.exec_id else ""
        lines.append(
            f"signal  {format_time(sent.time_ns)}  {format_signal(sent.signal)} to "
            f"{answer.container_id}{target} by {sent.method}"
        )
    lines += [
        f"failed  {format_time(failure.time_ns)}  {failure.method}: {failure.message}"
        for failure in answer.failures
    ]
    lines += [f"event   {describe(event)}" for event in answer.events]
    return lines
