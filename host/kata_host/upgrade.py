"""A live upgrade from the host's side: pack code, copy it into the guest, ask for it, and see what came of it.

Knows no machine. The answer to Upgrade says that the other code can take over; whether it has is seen over a new
connection, at the agent that answers there.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kata_host.client import AgentClient
from kata_host.connect import open_caller
from kata_host.copyfile import copy_file
from kata_host.sandbox_service import SandboxService
from kata_protocols.aio.address import Address
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.gen import sandbox_pb2 as pb
from kata_protocols.status import Code, StatusError

GUEST_ARCHIVE = "/run/kata-containers/kata-agent-upgrade.zip"
OUTCOME_S = 120.0
PACKAGE = "kata_agent"
_SUFFIXES = (".py", ".pyc")

Opener = Callable[[Address | str], Awaitable[Client]]


class UpgradeFailed(Exception):
    """Another agent answers, and it is not the one that was wanted; the text says why."""


@contextmanager
def pack_code(path: Path) -> Iterator[Path]:
    """A zip archive of a folder's modules, in a temporary file; an archive is taken as it is. Raises OSError."""
    if not path.is_dir():
        path.stat()
        yield path
        return
    if not (path / PACKAGE).is_dir():
        raise NotADirectoryError(
            0, f"holds no package {PACKAGE}; name the folder that holds the packages", str(path)
        )
    with tempfile.TemporaryDirectory(prefix="kata-upgrade-") as folder:
        archive = Path(folder) / "code.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for found in sorted(path.rglob("*")):
                if found.suffix in _SUFFIXES and "__pycache__" not in found.parts:
                    file.write(found, found.relative_to(path))
        yield archive


async def copy_code(client: AgentClient, archive: Path) -> str:
    """Copy an archive into the guest; gives its path there."""
    await copy_file(client, os.fspath(archive), GUEST_ARCHIVE)
    return GUEST_ARCHIVE


async def upgrade(
    address: Address | str, request: pb.UpgradeRequest, *, opener: Opener = open_caller
) -> tuple[pb.UpgradeResponse, pb.GetBootResponse]:
    """Have the guest's agent go on with this code; the answer, and what the agent says that answers afterwards.

    Raises StatusError (refused: the agent that was there goes on), `UpgradeFailed` (the guest went back to the code
    before), ConnectionLostError (the agent died before it had answered), TimeoutError.
    """
    async with await opener(address) as client:
        answer = await SandboxService(client).upgrade(request)
    async with asyncio.timeout(OUTCOME_S + (request.drain_ms + request.ready_ms) / 1000):
        boot = await _read_next_life(address, answer.life, opener)
    if boot.code != answer.code:
        raise UpgradeFailed(f"the guest went back to the agent before: {boot.last_end}")
    return answer, boot


async def _read_next_life(address: Address | str, life: int, opener: Opener) -> pb.GetBootResponse:
    """What the first agent after this life tells. Until it answers, connections are lost or wait."""
    while True:
        try:
            async with await opener(address) as client:
                boot = await SandboxService(client).get_boot()
        except ConnectionLostError:
            continue
        except StatusError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            continue
        if boot.life > life:
            return boot
