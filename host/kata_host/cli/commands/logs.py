"""`kata-agent-ctl logs`: a process's output from a session, from any offset that is kept; or the agent's own log.

The agent's log comes from its port (`agent.log_vport`): what it has kept, then each line as it is written.
"""

from __future__ import annotations

import argparse
import json
import sys

from kata_host.cli.port import add_port_options, find_port
from kata_host.cli.stdio import write_all
from kata_host.cli.target import DIAL_TIMEOUT_S, add_target_options, find_address
from kata_host.connect import connect
from kata_host.guest_port import LOG_PORT, dial_port, read_lines
from kata_host.session import SessionReader, open_session
from kata_protocols.aio.hangup import hanging_up

_SAME_FOR_ALL = ("version", "pid", "name", "source")
_EPILOG = """examples:
  kata-agent-ctl logs --keep web                 keep the output from now on, the newest MiB of each stream
  kata-agent-ctl logs web                        what is kept
  kata-agent-ctl logs --follow --since 4096 web  from an offset on, until the stream ends

  kata-agent-ctl logs                            the agent's own log, from its log port, until Ctrl-C
  kata-agent-ctl logs --follow --json            its lines as they are; over the agent's death too

The agent's log needs a guest that was started with `--kernel-arg agent.log_vport=1025`.
A gap is told on standard error. Reading takes nothing away; the process is never held back by `--keep`."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "logs", help="print a process's kept output, or the agent's log", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "container", nargs="?", metavar="CONTAINER", help="without one, the agent's own log from its port"
    )
    parser.add_argument("--exec", default="", metavar="EXEC", help="this process instead of the first one")
    parser.add_argument("--stderr", action="store_true", help="its standard error instead of its output")
    parser.add_argument("--since", type=int, default=0, metavar="OFFSET", help="begin here (default 0)")
    parser.add_argument("--follow", "-f", action="store_true", help="wait for more, until the stream ends")
    parser.add_argument("--keep", action="store_true", help="have the output kept from now on, print nothing")
    add_port_options(parser, LOG_PORT)
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Print what is kept, and with `--follow` what comes."""
    if options.container is None:
        return await print_agent_log(options)
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


async def print_agent_log(options: argparse.Namespace) -> int:
    """Print the agent's log until it hangs up; with `--follow` dial again, for as long as somebody listens."""
    address = find_port(options)
    while True:
        with hanging_up(await dial_port(address, f"agent.log_vport={LOG_PORT}")) as connection:
            async for line in read_lines(connection):
                text = line if options.json else format_record(line)
                await write_all(sys.stdout.fileno(), text + b"\n")
        if not options.follow:
            return 0


def format_record(line: bytes) -> bytes:
    """A record for people: time, level, subsystem, message, then what else it has. Another line stays as it is."""
    try:
        record = json.loads(line)
        head = f"{record.pop('ts')[:23]} {record.pop('level')} {record.pop('subsystem')}: {record.pop('msg')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    fields = "".join(f" {key}={value}" for key, value in record.items() if key not in _SAME_FOR_ALL)
    return f"{head}{fields}".encode("utf-8", "backslashreplace")
