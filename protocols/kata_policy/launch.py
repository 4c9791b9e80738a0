"""The engine's process as a plain child, for tools. The agent reaps all its children itself and has its own way."""

from __future__ import annotations

import asyncio
import socket
import subprocess

STOP_DEADLINE_S = 10.0


class Subprocess:
    """A child that is killed when it is no longer needed."""

    def __init__(self, argv: list[str], channel: socket.socket) -> None:
        self._child = subprocess.Popen(argv, stdin=channel.fileno(), stdout=channel.fileno(), env={})

    async def stop(self) -> str:
        """See `engine.Process`."""
        self._child.kill()
        status = await asyncio.to_thread(self._child.wait, STOP_DEADLINE_S)
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def launch(argv: list[str], channel: socket.socket) -> Subprocess:
    """An `engine.Launcher`."""
    return Subprocess(argv, channel)
