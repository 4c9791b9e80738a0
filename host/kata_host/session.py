"""A reader of a process's output that outlives connections and agents: it knows its offset and goes on from it.

`open_session` has the agent keep the output; `SessionReader` gives pieces and gaps in order. With a client of
`connect(..., reconnect=True)` a reader does not notice that the agent was killed. Knows the client, no machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from kata_host.client import Caller
from kata_protocols import services
from kata_protocols.gen import sandbox_pb2 as pb

READ_BYTES = 1 << 20
WAIT_MS = 30_000
TIMEOUT_S = 60.0
_METHODS = services.SANDBOX_SERVICE.methods


class Output(NamedTuple):
    """`data` that begins at `offset`; `missing` bytes before it are gone for good."""

    offset: int
    data: bytes
    missing: int = 0


async def open_session(
    caller: Caller, container_id: str, exec_id: str = "", *, ring_bytes: int = 0, drop_oldest: bool = False
) -> pb.Session:
    """Have both outputs kept from now on (a terminal's one). Asking again for the same is fine."""
    when_full = pb.DROP_OLDEST if drop_oldest else pb.BLOCK
    plans = [
        pb.StreamPlan(stream=stream, ring_bytes=ring_bytes, when_full=when_full)
        for stream in (pb.STDOUT, pb.STDERR)
    ]
    request = pb.OpenSessionRequest(container_id=container_id, exec_id=exec_id, streams=plans)
    answer: pb.Session = await caller.call(_METHODS["OpenSession"], request, timeout_s=TIMEOUT_S)
    return answer


class SessionReader:
    """`offset` is where it goes on; keep it to go on in another process."""

    def __init__(
        self,
        caller: Caller,
        container_id: str,
        exec_id: str = "",
        *,
        stderr: bool = False,
        offset: int = 0,
        release: bool = True,
    ) -> None:
        """`release`: what was handed out need not be kept, so that a blocking ring has room again."""
        self._caller = caller
        self._fields: dict[str, Any] = {
            "container_id": container_id,
            "exec_id": exec_id,
            "stream": pb.STDERR if stderr else pb.STDOUT,
            "limit": READ_BYTES,
        }
        self._release = release
        self.offset = offset
        self.ended = False

    async def read(self, wait_ms: int = WAIT_MS) -> Output | None:
        """The next piece; None when the stream has ended (`ended`) or nothing came in time."""
        released = self.offset if self._release else 0
        request = pb.ReadSessionRequest(**self._fields, offset=self.offset, wait_ms=wait_ms, release=released)
        answer = await self._caller.call(
            _METHODS["ReadSession"], request, timeout_s=TIMEOUT_S + wait_ms / 1000
        )
        missing = answer.offset - self.offset
        self.offset = answer.offset + len(answer.data)
        self.ended = answer.ended and self.offset == answer.end
        return Output(answer.offset, answer.data, missing) if answer.data or missing else None

    async def follow(self) -> AsyncIterator[Output]:
        """Every piece until the stream's end, waiting for more as long as it takes."""
        while not self.ended:
            piece = await self.read()
            if piece is not None:
                yield piece
