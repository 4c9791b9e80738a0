"""`kata-agent-ctl connect`: send commands to a running agent, in the notation of Kata's own tool (spec of the host
side, 1).

Commands run one after another on one connection; the first failure ends the run unless --ignore-errors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from kata_host.cli.errors import CliError
from kata_host.cli.notation import (
    BUILTINS,
    Command,
    NotationError,
    parse_command,
    parse_duration,
    parse_repeat,
)
from kata_host.cli.records import Records, render
from kata_host.cli.requests import API_COMMANDS, Session, build_requests, find_rpc
from kata_host.cli.stdio import read_ready
from kata_host.cli.target import patience
from kata_host.client import RPCS, AgentClient
from kata_host.connect import as_hybrid, connect
from kata_host.message_json import JsonMismatch, dump_message
from kata_protocols.aio.address import Address, UnixAddress, parse_address
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.status import StatusError

DIAL_TIMEOUT_S = 3.0
AUTO_METADATA = (("agent-ctl-cfg", "auto-values"),)
_LINE_BYTES = 65536

_EPILOG = """examples: `kata-agent-ctl examples` prints many. Commands: -c list.

arguments of a command: nothing, key=value ..., json://{...} or file://PATH; keys are the fields of the request.
exit status: 0 all commands succeeded, 1 one failed, 2 the command line is wrong."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "connect", help="send commands to a running agent", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--server-address",
        metavar="URI",
        help="unix:///PATH, unix://@NAME, vsock://CID:PORT, hvsock://PATH:PORT or serial:///PATH",
    )
    add(
        "-c", "--cmd", nargs="+", action="extend", default=[], metavar="CMD", help="commands; may be repeated"
    )
    add("-i", "--interactive", action="store_true", help="read commands from standard input")
    add("-n", "--no-auto-values", action="store_true", help="make up no ids and no other values")
    add("--bundle-dir", metavar="DIR", help="OCI bundle for CreateContainer and ExecProcess")
    add("--ignore-errors", action="store_true", help="go on after a failed command")
    add("--hybrid-vsock", action="store_true", help="the unix:// path is a VMM's multiplexer")
    add("--hybrid-vsock-port", type=int, default=1024, metavar="PORT", help="port asked of it (default 1024)")
    add("--timeout", default="", metavar="T", help="time for each call, such as 500ms or 5s (default: none)")
    add("--vm", metavar="HYPERVISOR", help="not offered; boot one with `kata-agent-ctl vm start`")
    add(
        "--output", choices=("log", "json"), default="log", help="json: print each response as a line of JSON"
    )
    parser.set_defaults(run=run)


class StopRun(Exception):
    """No more commands: `quit`, or a sandbox that is gone."""


@dataclass
class Runner:
    """One run's connection and settings."""

    client: AgentClient
    session: Session
    records: Records
    timeout_s: float | None
    json_output: bool
    repeat: int = 1

    async def run(self, text: str) -> None:
        """One command, as often as `repeat` said."""
        command = parse_command(text)
        if command.name == "repeat":
            self.repeat = parse_repeat(command.argument)
            return
        times, self.repeat = self.repeat, 1
        count = 0
        while times < 0 or count < times:
            count += 1
            of = "forever" if times < 0 else f"{count} of {times}"
            self.records.write("info", f"Run command {command.name} ({of})")
            stop = await self._run_once(command)
            self.records.write(
                "info", f"Command {command.name} ({of}) returned (Ok(()), {str(stop).lower()})"
            )
            if stop:
                raise StopRun

    async def _run_once(self, command: Command) -> bool:
        if command.is_builtin:
            return await _run_builtin(command)
        rpc = find_rpc(command.name)
        if rpc is None:
            raise NotationError(f'Invalid command: "{command.name}"')
        for request in build_requests(self.session, rpc, command.argument):
            await self._call(rpc, request)
        return rpc == "DestroySandbox"

    async def _call(self, rpc: str, request: object) -> None:
        row = RPCS[rpc]
        message = row.request()
        message.CopyFrom(request)
        self.records.write("debug", "sending request", request=render(message))
        metadata = AUTO_METADATA if self.session.auto_values else ()
        answer = await self.client.caller.call(
            row.method, message, timeout_s=self.timeout_s, metadata=metadata
        )
        self.records.write("info", "response received", response=render(answer))
        if self.json_output:
            print(json.dumps(dump_message(answer)), flush=True)


async def _run_builtin(command: Command) -> bool:
    match command.name:
        case "echo":
            print(command.argument, flush=True)
        case "help" | "list":
            print("\n".join(f" - {name}" for name in sorted((*BUILTINS, *API_COMMANDS))), flush=True)
        case "sleep":
            # The command's own purpose; it ends with the run when a signal cancels it.
            await asyncio.sleep(parse_duration(command.argument) or 0)
        case "quit":
            return True
        case _:
            raise NotationError(f'Invalid command: "{command.name}"')
    return False


def print_commands() -> None:
    """What `-c list` alone prints, without any connection."""
    print("Built-in commands:\n")
    print("\n".join(f"  {name}" for name in sorted(BUILTINS)))
    print("\nAgent API commands:\n")
    for name in API_COMMANDS:
        service = "health" if name in ("Check", "Version") else "agent"
        print(f"  {name} ({service} service)")


async def run(options: argparse.Namespace) -> int:
    """Connect and run the commands."""
    if options.vm:
        raise CliError("--vm: boot a machine with `kata-agent-ctl vm start` and give its address")
    if not options.server_address:
        raise CliError("--server-address is missing; it says where the agent listens", status=2)
    if bool(options.cmd) == options.interactive:
        raise CliError("give commands with -c, or -i to read them from standard input", status=2)
    if options.cmd == ["list"]:
        print_commands()
        return 0
    try:
        timeout_s = parse_duration(options.timeout)
        address = options.server_address
        target = as_hybrid(address, options.hybrid_vsock_port) if options.hybrid_vsock else address
        records = Records(options.log_level, sys.stderr if options.output == "json" else sys.stdout)
        records.write("info", "announce", config=_describe(options))
        client = await _dial(target)
    except ValueError as exc:
        raise CliError(str(exc)) from None
    records.write("info", "client setup complete", **{"server-address": address})
    async with client:
        session = Session(auto_values=not options.no_auto_values, bundle_dir=options.bundle_dir)
        runner = Runner(client, session, records, timeout_s, options.output == "json")
        source = _read_commands() if options.interactive else _iterate(options.cmd)
        return await _run_all(runner, source, ignore_errors=options.ignore_errors)


async def _dial(target: Address | str) -> AgentClient:
    """A plain unix socket is tried once: whoever serves it is there or not. A guest may still be booting."""
    address = parse_address(target) if isinstance(target, str) else target
    timeout_s = 0 if isinstance(address, UnixAddress) else patience(address, DIAL_TIMEOUT_S)
    try:
        return await connect(address, timeout_s)
    except OSError as exc:
        raise CliError(f"connect to {address}: {exc.strerror or exc}; is an agent running there?") from exc


def _describe(options: argparse.Namespace) -> str:
    shown = ("server_address", "bundle_dir", "timeout", "hybrid_vsock", "hybrid_vsock_port", "ignore_errors")
    return ", ".join(f"{key}: {getattr(options, key)!r}" for key in shown)


async def _run_all(runner: Runner, source: AsyncIterator[str], *, ignore_errors: bool) -> int:
    async for text in source:
        try:
            await runner.run(text)
        except StopRun:
            return 0
        except (StatusError, NotationError, JsonMismatch, ConnectionLostError) as exc:
            if not ignore_errors:
                raise CliError(f"{text.split(maxsplit=1)[0] if text.split() else 'command'}: {exc}") from exc
            print(f"ERROR: {text}: {exc}", file=sys.stderr)
    return 0


async def _iterate(texts: Iterable[str]) -> AsyncIterator[str]:
    for text in texts:
        yield text


async def _read_commands() -> AsyncIterator[str]:
    """Lines of standard input; its end is as good as `quit`."""
    print("\n".join(f" - {name}" for name in sorted((*BUILTINS, *API_COMMANDS))))
    pending = b""
    while True:
        print("Enter command: ", end="", flush=True)
        while b"\n" not in pending:
            piece = await read_ready(0, _LINE_BYTES)
            if not piece:
                return
            pending += piece
        line, pending = pending.split(b"\n", 1)
        if text := line.decode(errors="replace").strip():
            yield text
