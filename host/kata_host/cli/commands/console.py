"""`kata-agent-ctl console`: a shell in the guest, by its debug console. This terminal comes back however it ends."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys

from kata_host.cli.port import add_port_options, find_port
from kata_host.cli.stdio import read_ready, write_all
from kata_host.cli.target import add_target_options
from kata_host.cli.terminal import on_resize, raw_mode, read_size
from kata_host.guest_port import CONSOLE_PORT, dial_port
from kata_protocols.aio.hangup import hanging_up
from kata_protocols.console import encode_size, escape

_STDIN, _STDOUT = 0, 1
_PIECE_BYTES = 65536
_LEAVE = b"\x1d"  # Ctrl-]
# Not Ctrl-D: a shell that edits its lines takes its terminal out of line mode, and one that was typed ahead is lost.
_END_OF_INPUT = b"\nexit\n"
_DEFAULT_SIZE = (24, 80)
SETTINGS = f"agent.debug_console agent.debug_console_vport={CONSOLE_PORT}"

_EPILOG = f"""examples:
  kata-agent-ctl vm start --name test --kernel-arg agent.debug_console \\
      --kernel-arg agent.debug_console_vport={CONSOLE_PORT}
  kata-agent-ctl console --vm test               a shell; `exit` or Ctrl-D ends it, Ctrl-] leaves whatever it does
  echo 'dmesg | tail' | kata-agent-ctl console   what it prints, echo included

The shell sees this window's size, now and when it changes. It is killed when the connection ends."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "console", help="a shell in the guest itself, through its debug console", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_port_options(parser, CONSOLE_PORT)
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Join this terminal and the shell until one of them ends."""
    with hanging_up(await dial_port(find_port(options), SETTINGS)) as connection:
        if os.isatty(_STDIN):
            print("connected; Ctrl-] leaves", file=sys.stderr)
        await _join(connection)
    return 0


async def _join(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writing = asyncio.Lock()  # a size must not come in the middle of something typed

    async def send(data: bytes) -> None:
        async with writing:
            await loop.sock_sendall(connection, data)

    async def resize() -> None:
        await send(encode_size(*(read_size(_STDIN) or _DEFAULT_SIZE)))

    async def follow_keys() -> None:
        while data := await read_ready(_STDIN, _PIECE_BYTES):
            typed, leave, _ = data.partition(_LEAVE) if os.isatty(_STDIN) else (data, b"", b"")
            await send(escape(typed))
            if leave:
                connection.shutdown(socket.SHUT_RDWR)
                return
        await send(_END_OF_INPUT)

    async with asyncio.TaskGroup() as group:

        async def guarded(work: object) -> None:
            try:
                await work  # type: ignore[misc]  # a coroutine
            except (BrokenPipeError, ConnectionResetError):
                return  # the shell has ended; the output's end tells

        def changed() -> None:
            group.create_task(guarded(resize()))

        with raw_mode(_STDIN), on_resize(changed):
            await guarded(resize())
            keys = group.create_task(guarded(follow_keys()))
            await _print_output(connection)
            keys.cancel()


async def _print_output(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await loop.sock_recv(connection, _PIECE_BYTES)
        except ConnectionResetError:
            return  # the agent has died, and the shell with it
        if not data:
            return
        await write_all(_STDOUT, data)
