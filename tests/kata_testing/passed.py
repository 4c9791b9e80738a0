"""The host's side of streams on connections of their own, over the unix form: a port is in the name that is bound."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from pathlib import Path
from typing import Self

from kata_testing.native import NativeAgent, oci_process

_ports = itertools.count(5001)
DEADLINE_S = 30.0


def environment(folder: Path) -> dict[str, str]:
    """What an agent is started with, to listen in this folder."""
    return {"KATA_AGENT_PASSFD_LISTENER": f"unix://{folder}/streams.sock"}


class OwnStream:
    """One connection; the caller closes it."""

    def __init__(self, folder: Path) -> None:
        self.port = next(_ports)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(f"\0kata-test-{os.getpid()}:{self.port}")
        self.socket.connect(f"{folder}/streams.sock")
        self.socket.setblocking(False)

    def close(self) -> None:
        self.socket.close()

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """All of it; with `end` nothing follows."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)
        if end:
            self.socket.shutdown(socket.SHUT_WR)

    async def receive(self, limit: int = 1 << 20) -> bytes:
        """What comes next; nothing at the end."""
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.get_running_loop().sock_recv(self.socket, limit)

    async def receive_all(self) -> bytes:
        """Everything up to the end."""
        pieces = []
        while piece := await self.receive():
            pieces.append(piece)
        return b"".join(pieces)


class OwnStreams:
    """Connections for the streams named; ports of the others are 0. A context manager."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.by_name = {name: OwnStream(folder) for name in names or ("stdin", "stdout", "stderr")}

    def __getitem__(self, name: str) -> OwnStream:
        return self.by_name[name]

    @property
    def ports(self) -> dict[str, int]:
        """The fields of a request."""
        return {f"{name}_port": stream.port for name, stream in self.by_name.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.by_name.values():
            stream.close()


async def exec_own(
    agent: NativeAgent, container: str, exec_id: str, streams: OwnStreams, *args: str, **process: object
) -> None:
    """ExecProcess with these connections."""
    await agent.call(
        "ExecProcess",
        container_id=container,
        exec_id=exec_id,
        process=oci_process(*args, **process),
        **streams.ports,
    )
