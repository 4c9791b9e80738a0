"""The host's end of a guest's serial channel: opening it, and one connection over it alone.

A path is the unix socket of a VMM's character device, or a device (a terminal is made raw). One peer at a time has
it; a second one's connection is not answered until the first is gone. Must not know: who else wants the channel.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat

from kata_protocols.aio.mux import Mux


def open_channel(path: str) -> int:
    """A descriptor of the channel, the caller's. OSError names the path."""
    if stat.S_ISCHR(os.stat(path).st_mode):
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        if os.isatty(fd):
            import tty

            tty.setraw(fd)
        return fd
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(0)
        sock.connect(path)
        return sock.detach()


async def connect_alone(path: str, *, timeout_s: float) -> socket.socket:
    """A connection over a channel that nobody else uses; the channel is closed with it. OSError if nobody answers."""
    mux = Mux(open_channel(path), client=True, close_when_idle=True)
    try:
        async with asyncio.timeout(timeout_s):
            joined = await mux.wait_joined()
    except TimeoutError:
        mux.close("nobody answers")
        text = f"{path}: no agent answers; is another program using the channel (`kata-agent-ctl proxy` shares it)?"
        raise TimeoutError(errno.ETIMEDOUT, text) from None
    except BaseException:
        mux.close("given up")
        raise
    if not joined:
        raise ConnectionResetError(errno.ECONNRESET, f"{path}: {mux.end_reason}")
    ours, theirs = socket.socketpair()
    mux.attach(theirs)
    ours.settimeout(0)
    return ours
