"""`kata-agent-ctl exits` and `why`: what ended in a guest, how, and what is known of the reason; the agent included."""

from __future__ import annotations

import argparse
import json

from kata_host.cli.commands.events import describe
from kata_host.cli.table import format_exit, format_signal, format_table, format_time
from kata_host.cli.target import add_target_options, open_service
from kata_host.message_json import dump_message
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import KNOWN_CODES, Code

LAST_CALLS = 20


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both verbs' command lines."""
    parser = verbs.add_parser("exits", help="list what has ended in a guest, and how")
    parser.add_argument("container", nargs="?", default="", metavar="CONTAINER", help="only this one's")
    add_target_options(parser)
    parser.set_defaults(run=run)
    why = verbs.add_parser("why", help="tell why a container ended, also when it is removed, or the agent")
    why.add_argument(
        "container",
        nargs="?",
        metavar="CONTAINER",
        help="without one: how the agent ended, and its last calls",
    )
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
    if options.container is None:
        return await run_why_agent(options)
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


async def run_why_agent(options: argparse.Namespace) -> int:
    """Print how the last agent ended and what it was asked last."""
    async with open_service(options) as service:
        answer = await service.last_calls()
    if options.json:
        print(json.dumps(dump_message(answer)))
    else:
        print("\n".join(explain_agent(answer)))
    return 0


def explain_agent(answer: pb.LastCallsResponse) -> list[str]:
    """How it ended, what was under way then, what came before; without an end, what this agent was asked."""
    told = answer.life - 1 if answer.life > 1 else answer.life
    calls = [call for call in answer.calls if call.life == told]
    if answer.life > 1:
        lines = [f"agent {told} ended: {answer.last_end or 'nobody knows how'}; agent {answer.life} answers"]
    else:
        lines = ["the agent has not ended since the boot; its last calls:"]
    lines += [_describe_call(call) for call in calls if not call.finished]
    lines += [_describe_call(call) for call in calls[-LAST_CALLS:] if call.finished]
    if answer.crash:
        lines += ["its stacks when a fatal signal ended it:", *answer.crash.splitlines()]
    return lines


def _describe_call(call: pb.RecordedCall) -> str:
    how = f"{_code_name(call.code)} after {call.duration_us} us" if call.finished else "under way"
    return f"call    {format_time(call.time_ns)}  {call.method} {call.container_id or '-'}: {how}"


def _code_name(code: int) -> str:
    return Code(code).name if code in KNOWN_CODES else str(code)
