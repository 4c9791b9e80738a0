"""`kata-agent-ctl upgrade`: have a guest's agent followed by other code, while everything in the guest goes on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kata_host.cli.errors import CliError
from kata_host.cli.target import add_target_options, find_address, open_service
from kata_host.client import AgentClient
from kata_host.connect import open_caller
from kata_host.message_json import dump_message
from kata_host.upgrade import UpgradeFailed, copy_code, pack_code, upgrade
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import sandbox_pb2 as pb

_EPILOG = """examples:
  kata-agent-ctl upgrade build/guest/agent.zip            the agent of a guest image that was built meanwhile
  kata-agent-ctl upgrade --check new-agent/               would that code take over? nothing changes
  kata-agent-ctl upgrade --in-guest /run/kata-containers/shared/containers/agent

CODE is a folder that holds the package kata_agent and those it needs (kata_protocols, kata_linux, kata_init), or a zip
archive of one. What it does not bring along is the image's. Containers run on; calls that wait end with their
connection and are to be asked again. Code that does not know the agent's state is refused and the agent goes on;
code that does not become ready is given up by PID 1, which goes back to the agent before: exit status 1 either way."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "upgrade", help="replace the agent of a running guest", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("code", metavar="CODE", help="folder or zip archive with the new agent")
    parser.add_argument("--in-guest", action="store_true", help="CODE is a path in the guest: copy nothing")
    parser.add_argument(
        "--check", action="store_true", help="only have that code say whether it can take over"
    )
    parser.add_argument(
        "--drain", type=float, default=0, metavar="SECONDS", help="for calls in flight (default 5)"
    )
    parser.add_argument(
        "--ready", type=float, default=0, metavar="SECONDS", help="for the new agent (default 20)"
    )
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Copy, ask, and tell what came of it."""
    request = pb.UpgradeRequest(
        path=options.code if options.in_guest else await _copy(options),
        check_only=options.check,
        drain_ms=int(options.drain * 1000),
        ready_ms=int(options.ready * 1000),
    )
    if options.check:
        async with open_service(options) as service:
            checked = await service.upgrade(request)
        show(options, checked, f"version {checked.version} can take over")
        return 0
    try:
        answer, boot = await upgrade(find_address(options), request)
    except (UpgradeFailed, TimeoutError) as error:
        raise CliError(f"upgrade: {error or 'no agent has answered in time'}") from error
    except ConnectionLostError as error:
        raise CliError(f"upgrade: the agent died before it had answered, ask again: {error}") from error
    show(options, boot, f"upgraded to version {answer.version}, life {boot.life}, running from {boot.code}")
    return 0


def show(options: argparse.Namespace, message: pb.UpgradeResponse | pb.GetBootResponse, text: str) -> None:
    """One line, or the message."""
    print(json.dumps(dump_message(message)) if options.json else text)


async def _copy(options: argparse.Namespace) -> str:
    with pack_code(Path(options.code)) as archive:
        async with await open_caller(find_address(options)) as client:
            return await copy_code(AgentClient(client), archive)
