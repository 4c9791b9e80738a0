"""CopyFile: files that the host cannot share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.guest.copyfile import Piece
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_protocols.gen import agent_pb2


async def copy_file(agent: Agent, request: agent_pb2.CopyFileRequest) -> Empty:
    """Write one piece of a file, or a directory, or a link."""
    await agent.copier.copy(
        Piece(
            path=request.path,
            size=request.file_size,
            mode=request.file_mode,
            directory_mode=request.dir_mode,
            uid=request.uid,
            gid=request.gid,
            offset=request.offset,
            data=request.data,
        )
    )
    return Empty()


HANDLERS = {"CopyFile": copy_file}
