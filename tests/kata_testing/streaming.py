"""A server's stream for wire tests: `kata.agent.v1.Sandbox/Events` whose request says in `cursor` what to send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from kata_protocols import services
from kata_protocols.aio.router import Call, Router
from kata_protocols.gen import sandbox_pb2
from kata_protocols.status import Code, StatusError

SANDBOX = services.SANDBOX_SERVICE
EVENTS = SANDBOX.methods["Events"]


def ask(word: str) -> sandbox_pb2.EventsRequest:
    return sandbox_pb2.EventsRequest(cursor=word)


class Streamer:
    """`count N`: N events; `fail N`: a status after N; `refuse`: a status at once; `hang`: one event and then none;
    `flood N SIZE`: N events with SIZE bytes of text. `sent` counts events, `begun` and `finished` handlers."""

    def __init__(self) -> None:
        self.sent = 0
        self.begun = 0
        self.finished = 0
        self.changed = asyncio.Condition()

    def router(self) -> Router:
        router = Router()
        router.add(SANDBOX, "Events", self.events)
        return router

    def events(
        self, request: sandbox_pb2.EventsRequest, _call: Call
    ) -> AsyncGenerator[sandbox_pb2.Event, None]:
        verb, *numbers = request.cursor.split()
        if verb == "refuse":
            raise StatusError(Code.INVALID_ARGUMENT, "no such cursor", (("type.test/x", b"\x01"),))
        return self._run(verb, [int(number) for number in numbers])

    async def _run(self, verb: str, numbers: list[int]) -> AsyncGenerator[sandbox_pb2.Event, None]:
        self.begun += 1
        try:
            count = numbers[0] if numbers else 1
            text = "x" * numbers[1] if verb == "flood" else ""
            for number in range(count):
                self.sent += 1
                yield sandbox_pb2.Event(cursor=str(number), text=text)
            if verb == "fail":
                raise StatusError(Code.FAILED_PRECONDITION, "not now", (("type.test/x", b"\x01"),))
            if verb == "hang":
                await asyncio.Event().wait()
        finally:
            self.finished += 1
            async with self.changed:
                self.changed.notify_all()

    async def wait_finished(self, count: int = 1) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.finished >= count)

    async def wait_idle(self) -> None:
        """Until each handler that began is over. One whose deadline had passed before its first step never begins."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.finished == self.begun)
