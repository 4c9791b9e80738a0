"""`kata-agent-ctl ps` and `kill`: what runs in a guest's containers, and ending all of it or a branch."""

from __future__ import annotations

import argparse
import json

from kata_host.cli.errors import CliError
from kata_host.cli.table import format_size, format_table, format_time, parse_signal
from kata_host.cli.target import add_target_options, open_service
from kata_host.message_json import dump_message

_HEADERS = ("CONTAINER", "EXEC", "PID", "PPID", "USER", "S", "RSS", "THREADS", "STARTED", "COMMAND")
_KILL_EPILOG = """examples:
  kata-agent-ctl kill web                     SIGKILL to everything in the container
  kata-agent-ctl kill --exec probe1 web       that process and all that descend from it
  kata-agent-ctl kill --signal TERM web"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both verbs' command lines."""
    parser = verbs.add_parser("ps", help="list the processes in a guest's containers")
    parser.add_argument("container", nargs="?", default="", metavar="CONTAINER", help="only this one's")
    add_target_options(parser)
    parser.set_defaults(run=run)
    kill = verbs.add_parser(
        "kill", help="signal a container, or a process and its descendants", epilog=_KILL_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kill.add_argument("container", metavar="CONTAINER")
    kill.add_argument("--exec", default="", metavar="EXEC", help="only this process and its descendants")
    kill.add_argument("--signal", default="KILL", metavar="SIGNAL", help="name or number (default KILL)")
    add_target_options(kill)
    kill.set_defaults(run=run_kill)


async def run(options: argparse.Namespace) -> int:
    """Print the processes."""
    async with open_service(options) as service:
        found = (await service.list_processes(options.container)).processes
    if options.json:
        for process in found:
            print(json.dumps(dump_message(process)))
        return 0
    rows = [
        (
            process.container_id,
            "-" if process.exec_id in ("", process.container_id) else process.exec_id,
            process.pid,
            process.ppid,
            process.uid,
            process.state,
            format_size(process.rss_bytes),
            process.threads,
            format_time(process.start_time_ns),
            " ".join(process.command) or f"[{process.name}]",
        )
        for process in found
    ]
    print(format_table(_HEADERS, rows))
    return 0


async def run_kill(options: argparse.Namespace) -> int:
    """Signal them; 1 when there was nothing to signal."""
    try:
        number = parse_signal(options.signal)
    except ValueError as error:
        raise CliError(f"--signal: {error}", status=2) from None
    async with open_service(options) as service:
        count = await service.kill_tree(options.container, options.exec, number)
    if options.json:
        print(json.dumps({"signalled": count}))
    else:
        print(f"{count} process{'' if count == 1 else 'es'} signalled")
    return 0 if count else 1
