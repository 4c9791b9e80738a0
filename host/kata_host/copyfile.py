"""Copies a file into the guest by CopyFile calls, as Kata's own tool does (spec of the host side, 1.7)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from kata_host.client import AgentClient
from kata_protocols.gen import agent_pb2 as pb

CHUNK_BYTES = 1 << 20
_DIR_MODE = 0o20000000750  # Go's directory bit and 0750, as Kata's runtime sends it


async def copy_file(client: AgentClient, source: str, destination: str) -> None:
    """Copy one file, symbolic link or folder (without what is in it) to `destination` in the guest."""
    for request in plan_copy(source, destination):
        await client.copy_file(request)


def plan_copy(source: str, destination: str) -> Iterator[pb.CopyFileRequest]:
    """The requests that copy one file, symbolic link or folder: a regular file in pieces of 1 MiB."""
    found = os.lstat(source)
    base: dict[str, Any] = {
        "path": destination,
        "dir_mode": _DIR_MODE,
        "file_mode": found.st_mode,
        "uid": found.st_uid,
        "gid": found.st_gid,
    }
    if stat.S_ISLNK(found.st_mode):
        yield pb.CopyFileRequest(**base, data=os.fsencode(os.readlink(source)))
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        yield pb.CopyFileRequest(**base)
        return
    with open(source, "rb") as file:
        offset = 0
        while offset < found.st_size:
            data = file.read(min(CHUNK_BYTES, found.st_size - offset))
            if not data:
                raise OSError(errno.EIO, "became shorter while it was read", source)
            yield pb.CopyFileRequest(**base, file_size=found.st_size, offset=offset, data=data)
            offset += len(data)
