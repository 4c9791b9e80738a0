"""`kata-agent-ctl logs`: a process's output from a session, from any offset that is kept, again and again."""

from __future__ import annotations

import argparse
import sys

from kata_host.cli.stdio import write_all
from kata_host.cli.target import DIAL_TIMEOUT_S, add_target_options, find_address
from kata_host.connect import connect
from kata_host.session import SessionReader, open_session

_EPILOG = """examples:
  kata-agent-ctl logs --keep web                 keep the output from now on, the newest MiB of each stream
  kata-agent-ctl logs web                        what is kept
  kata-agent-ctl logs --follow --since 4096 web  from an offset on, until the stream ends

A gap is told on standard error. Reading takes nothing away; the process is never held back by `--keep`."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "logs", help="print a process's kept output", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("--exec", default="", metavar="EXEC", help="this process instead of the first one")
    parser.add_argument("--stderr", action="store_true", help="its standard error instead of its output")
    parser.add_argument("--since", type=int, default=0, metavar="OFFSET", help="begin here (default 0)")
    parser.add_argument("--follow", "-f", action="store_true", help="wait for more, until the stream ends")
    parser.add_argument("--keep", action="store_true", help="have the output kept from now on, print nothing")
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Print what is kept, and with `--follow` what comes."""
    async with await connect(find_address(options), DIAL_TIMEOUT_S, reconnect=True) as client:
        if options.keep:
            await open_session(client.caller, options.container, options.exec, drop_oldest=True)
            return 0
        reader = SessionReader(
            client.caller,
            options.container,
            options.exec,
            stderr=options.stderr,
            offset=options.since,
            release=False,
        )
        while not reader.ended:
            piece = await (reader.read() if options.follow else reader.read(wait_ms=0))
            if piece is None and not options.follow:
                break
            if piece is not None:
                if piece.missing:
                    print(f"({piece.missing} bytes before offset {piece.offset} are gone)", file=sys.stderr)
                await write_all(sys.stdout.fileno(), piece.data)
    return 0
