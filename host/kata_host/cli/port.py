"""Which port of a guest a verb means: `--port N` of the machine that it asks, or an address of its own."""

from __future__ import annotations

import argparse

from kata_host.cli.errors import CliError
from kata_host.cli.target import find_address
from kata_host.guest_port import find_port_address
from kata_protocols.aio.address import Address, parse_address


def add_port_options(parser: argparse.ArgumentParser, port: int) -> None:
    """The port, and where it is when the agent's address does not tell."""
    parser.add_argument("--port", type=int, default=port, metavar="N", help=f"vsock port (default {port})")
    parser.add_argument(
        "--port-address", metavar="URI", help="the port's own address, for an agent on unix sockets"
    )


def find_port(options: argparse.Namespace) -> Address:
    """The port's address. Raises `CliError`."""
    try:
        if options.port_address:
            return parse_address(options.port_address)
        return find_port_address(find_address(options), options.port)
    except ValueError as error:
        raise CliError(f"{error}; use --port-address", status=2) from None
