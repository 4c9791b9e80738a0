"""`kata-agent-ctl log-level`: show the agent's log level, or change it while it runs."""

from __future__ import annotations

import argparse
import json

from kata_host.cli.target import add_target_options, open_service
from kata_host.message_json import dump_message
from kata_protocols.log_record import ORDER


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser("log-level", help="show or change how much the agent logs")
    parser.add_argument(
        "level", nargs="?", default="", choices=("", *ORDER), metavar="LEVEL", help=", ".join(ORDER)
    )
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Print the level in force, and the one before when it was changed."""
    async with open_service(options) as service:
        answer = await service.log_level(options.level)
    if options.json:
        print(json.dumps(dump_message(answer)))
    elif answer.before != answer.level:
        print(f"{answer.level} (was {answer.before})")
    else:
        print(answer.level)
    if answer.dropped and not options.json:
        print(f"{answer.dropped} lines did not reach readers of the log port")
    return 0
