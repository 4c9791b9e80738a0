"""Replies through pipes, and a ReadStdout that answers with them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import Any

from kata_protocols import services
from kata_protocols.aio.server import Call, PipeReply, Router
from kata_protocols.gen import agent_pb2
from kata_protocols.ttrpc.envelope import encode_varint

AGENT = services.AGENT_SERVICE
READ = AGENT.methods["ReadStdout"]
F_SETPIPE_SZ = 1031


class Reply(PipeReply):
    """Answers with `data` through a pipe of its own, or fails with `error` when it is asked for it."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self.payload_head = b"\x0a" + encode_varint(len(data))
        self.length = len(data)
        self.wire_fd, self.write_fd = os.pipe()
        fcntl.fcntl(self.write_fd, F_SETPIPE_SZ, max(4096, len(data) + 4096))
        self.data = data
        self.error = error
        self.ends: list[bool] = []
        self.ended = asyncio.Event()

    def fill(self, head: bytes) -> None:
        if self.error is not None:
            raise self.error
        assert os.write(self.write_fd, head + self.data) == len(head) + self.length

    def take(self) -> bytes:
        if self.error is not None:
            raise self.error
        return self.data

    def finished(self, delivered: bool) -> None:
        self.ends.append(delivered)
        self.ended.set()

    def left_in_pipe(self) -> int:
        os.set_blocking(self.wire_fd, False)
        try:
            return len(os.read(self.wire_fd, 1 << 22))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self.wire_fd)
        os.close(self.write_fd)


class Reader:
    """ReadStdout answers with the next prepared reply, at once or after a step of the loop."""

    def __init__(self, *replies: Reply, later: bool = False) -> None:
        self.replies = list(replies)
        self.prepared = list(replies)
        self.later = later
        self.release = asyncio.Event()
        self.release.set()

    def router(self, *, cancel_on_disconnect: bool = True) -> Router:
        router = Router()
        router.add(AGENT, "ReadStdout", self.read, cancel_on_disconnect=cancel_on_disconnect)
        router.add(services.HEALTH_SERVICE, "Check", self.check)
        return router

    def check(self, request: object, call: Call) -> Any:
        return services.HEALTH_SERVICE.methods["Check"].response_type()

    def read(self, request: agent_pb2.ReadStreamRequest, call: Call) -> Any:
        return self.wait() if self.later else self.replies.pop(0)

    async def wait(self) -> Reply:
        await self.release.wait()
        return self.replies.pop(0)

    def close(self) -> None:
        for reply in self.prepared:
            reply.close()
