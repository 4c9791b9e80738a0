"""The program `kata-agent-ctl`: the parser, the event loop, signals, and how errors are shown.

Every verb is a coroutine that returns the exit status. A signal cancels it, so that its context managers take
down what it started; the status is then 128 + the signal's number.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from kata_host.cli.commands import (
    boot,
    connect,
    console,
    devices,
    events,
    examples,
    exits,
    generate,
    log_level,
    logs,
    policy,
    proxy,
    ps,
    traces,
    upgrade,
    vm,
)
from kata_host.cli.commands import run as run_command
from kata_host.cli.errors import EXIT_FAILURE, CliError, describe_os_error
from kata_host.cli.interrupt import Interrupted, interruptible
from kata_host.error_detail import find_detail
from kata_host.vm.base import VmError
from kata_host.vm.process import ChildFailed
from kata_host.vm.state import StateError
from kata_protocols.log_record import LEVELS
from kata_protocols.status import StatusError

PROGRAM = "kata-agent-ctl"

_EPILOG = """examples:
  kata-agent-ctl run -- sh -c 'uname -a; exit 7'      boot a VM, run a command in a container, exit with 7
  echo hello | kata-agent-ctl run -- wc -c            standard input and output pass through
  kata-agent-ctl run --tty -- sh                      a shell
  kata-agent-ctl boot                                 time line from kernel to first container
  kata-agent-ctl vm start --name test --json          keep a VM; prints the address of its agent
  kata-agent-ctl connect --server-address unix:///run/kata.sock -c Check -c GetGuestDetails
  kata-agent-ctl events --vm test --follow            what happens in it; also ps, kill, exits, why CONTAINER
  kata-agent-ctl vm stop test

`kata-agent-ctl VERB --help` says more about each."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run containers in virtual machines, and talk to the agents inside them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} 0.1.0")
    parser.add_argument(
        "-l", "--log-level", choices=LEVELS, default="info", help="how much `connect` logs (default info)"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for command in (
        run_command,
        vm,
        connect,
        console,
        events,
        ps,
        exits,
        devices,
        logs,
        log_level,
        traces,
        policy,
        proxy,
        boot,
        upgrade,
        generate,
        examples,
    ):
        command.add_parser(verbs)
    help_verb = verbs.add_parser("help", help="show this help")
    help_verb.set_defaults(run=None)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.verb is None:
        print(f"{PROGRAM}: error: need sub-command; `{PROGRAM} --help` lists them", file=sys.stderr)
        return EXIT_FAILURE
    if options.run is None:
        parser.print_help()
        return 0
    prefix = "ERROR" if options.verb == "connect" else f"{PROGRAM}: error"
    try:
        status: int = asyncio.run(interruptible(options.run, options))
    except Interrupted as exc:
        return 128 + exc.number
    except KeyboardInterrupt:  # once more, when everything has been taken down
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at exit
        return EXIT_FAILURE
    except CliError as exc:
        print(f"{prefix}: {exc}", file=sys.stderr)
        return exc.status
    except (VmError, StateError, ChildFailed, StatusError, OSError) as exc:
        text = describe_os_error(exc) if isinstance(exc, OSError) else exc
        print(f"{prefix}: {text}", file=sys.stderr)
        detail = find_detail(exc) if isinstance(exc, StatusError) else None
        if detail is not None and detail.hint:
            print(f"{PROGRAM}: hint: {detail.hint}", file=sys.stderr)
        return EXIT_FAILURE
    return status
