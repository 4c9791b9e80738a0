"""`kata-agent-ctl proxy`: share a guest's serial channel, and have its console beside it, as kata-proxy did."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from kata_host.cli.errors import CliError
from kata_host.proxy import listen_unix, reach, serve_always
from kata_host.vm.watch import wait_readable
from kata_protocols.aio.address import UnixAddress, parse_address

_READ_BYTES = 65536
_EPILOG = """examples:
  kata-agent-ctl proxy --channel /run/vm/channel.sock --listen unix:///run/vm/agent.sock
  kata-agent-ctl proxy --channel /run/vm/channel.sock --listen unix:///run/vm/agent.sock --console /run/vm/console.sock
  kata-agent-ctl connect --server-address unix:///run/vm/agent.sock -c Check     any number of these at once

The channel is the VMM's unix socket of a virtio port, or a device; so is the console. Either may come later, end,
and come again. Machines of `vm start --channel serial` have such a proxy already."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "proxy", help="share a guest's serial channel among several clients", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--channel", required=True, type=os.path.abspath, metavar="PATH", help="the VMM's socket, or a device"
    )
    parser.add_argument("--listen", required=True, metavar="URI", help="unix:///PATH, for clients")
    parser.add_argument(
        "--console",
        metavar="PATH",
        help="the socket of the guest's console, which is copied to standard output",
    )
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    try:
        address = parse_address(options.listen)
    except ValueError as error:
        raise CliError(str(error), status=2) from None
    if not isinstance(address, UnixAddress) or address.path.startswith("\0"):
        raise CliError(f"--listen {options.listen}: clients connect to a unix:///PATH", status=2)
    with listen_unix(address.path) as listener:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(serve_always(options.channel, listener, tell=tell))
                if options.console:
                    group.create_task(copy_console(options.console))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            os.unlink(address.path)
    return 0


def tell(state: str) -> None:
    """A line on standard error."""
    print(f"kata-agent-ctl: channel: {state}", file=sys.stderr, flush=True)


async def copy_console(path: str) -> None:
    """Copy what the guest prints, for ever."""
    while True:
        fd = await reach(path)
        try:
            await _copy(fd)
        finally:
            os.close(fd)


async def _copy(fd: int) -> None:
    while True:
        await wait_readable(fd)
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            return  # a terminal whose other side has gone
        if not data:
            return
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
