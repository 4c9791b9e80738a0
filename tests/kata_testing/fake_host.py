"""Fakes for the host's tests: a caller that records, and an agent on a unix socket that answers from a table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message

from kata_host.client import RPCS
from kata_protocols import services
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.listen import open_listener
from kata_protocols.aio.router import Endpoint, Router
from kata_protocols.aio.server import serve
from kata_protocols.services import Method

Answer = Callable[[Any], Any]


class FakeCaller:
    """Answers calls by a table of functions; what is not in it gets an empty answer. Keeps what was sent."""

    def __init__(self, answers: dict[str, Answer] | None = None) -> None:
        self.answers = answers or {}
        self.sent: list[tuple[str, Message]] = []
        self.timeouts: dict[str, float | None] = {}
        self.closed = False

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sent]

    async def call(
        self,
        method: Method,
        request: Message,
        *,
        timeout_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        self.sent.append((method.name, request))
        self.timeouts[method.name] = timeout_s
        make = self.answers.get(method.name)
        answer = RPCS[method.name].response() if make is None else make(request)
        return await answer if isinstance(answer, Awaitable) else answer

    async def aclose(self) -> None:
        self.closed = True


@asynccontextmanager
async def serve_table(path: str, answers: dict[str, Answer]) -> AsyncIterator[list[tuple[str, Message]]]:
    """Serve both services on a unix socket; yields what was asked, in order."""
    asked: list[tuple[str, Message]] = []

    def handler_of(name: str) -> Callable[[Any, Any], Any]:
        def handle(request: Any, _call: Any) -> Any:
            asked.append((name, request))
            return answers.get(name, lambda _: RPCS[name].response())(request)

        return handle

    router = Router()
    for service in (services.AGENT_SERVICE, services.HEALTH_SERVICE):
        endpoints = {
            name: Endpoint(method.request_type, handler_of(name), cancel_on_disconnect=True)
            for name, method in service.methods.items()
        }
        router.add_service(service, endpoints)
    with open_listener(UnixAddress(path)) as listener:
        async with serve(router, [listener]):
            yield asked


def run(work: Any) -> Any:
    """Run a coroutine with a deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(bounded())
