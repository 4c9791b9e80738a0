"""Which agent a verb asks: `--server-address URI`, `--vm NAME`, or the one machine that runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kata_host.cli.errors import CliError
from kata_host.connect import open_caller
from kata_host.sandbox_service import SandboxService
from kata_host.vm.state import list_descriptions
from kata_protocols.aio.address import Address, VsockAddress, parse_address

DIAL_TIMEOUT_S = 10.0


def add_target_options(parser: argparse.ArgumentParser, default: str = "the only one there is") -> None:
    """The two ways to name an agent, and `--json`."""
    parser.add_argument("--server-address", metavar="URI", help="where the agent listens")
    parser.add_argument("--vm", metavar="NAME", help=f"a machine of `vm start` (default: {default})")
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each thing")


def find_address(options: argparse.Namespace) -> str:
    """The agent's address. Raises `CliError`."""
    if options.server_address and options.vm:
        raise CliError("--server-address and --vm: give one of them", status=2)
    if options.server_address:
        return str(options.server_address)
    running = {str(each["name"]): str(each["address"]) for each in list_descriptions() if each["running"]}
    if options.vm:
        if options.vm not in running:
            raise CliError(f"no VM named {options.vm!r} runs; `kata-agent-ctl vm list` shows them")
        return running[options.vm]
    if len(running) != 1:
        raise CliError(
            f"{len(running)} VMs run: name one with --vm, or an agent with --server-address", status=2
        )
    return next(iter(running.values()))


def patience(address: Address, limit_s: float) -> float:
    """Seconds to go on dialling. A VMM makes its socket file before the guest starts: without one nobody will come."""
    if isinstance(address, VsockAddress) or address.path.startswith("\0"):
        return limit_s
    return limit_s if os.path.exists(address.path) else 0


@asynccontextmanager
async def open_service(options: argparse.Namespace) -> AsyncIterator[SandboxService]:
    """A connection to the agent that the command line names."""
    address = find_address(options)
    try:
        target = parse_address(address)
        client = await open_caller(target, timeout_s=patience(target, DIAL_TIMEOUT_S))
    except ValueError as error:
        raise CliError(str(error), status=2) from None
    except OSError as error:
        raise CliError(
            f"connect to {address}: {error.strerror or error}; is an agent running there?"
        ) from error
    async with client:
        yield SandboxService(client)
