"""One gRPC call that answers with a stream: the handler's messages, as fast as HTTP/2's windows let them go.

Knows what `calls` knows. The handler runs in the stream's own task: a peer that resets the stream, or is gone, ends it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from kata_protocols.aio.calls import SHUTTING_DOWN, TIMEOUT
from kata_protocols.grpc.calls import Stream, UnaryCall
from kata_protocols.status import StatusError

if TYPE_CHECKING:
    from google.protobuf.message import Message


class StreamCall(UnaryCall):
    """Runs one server-streaming handler for one gRPC stream."""

    _ending = False

    async def _respond(self, stream: Stream, request: Message) -> None:
        self._task = asyncio.current_task()
        messages: Any = self._endpoint.handler(request, self._call)
        try:
            async with asyncio.timeout_at(self._call.deadline) as limit, aclosing(messages):
                await stream.send_initial_metadata()
                async for message in messages:
                    await self._send(stream, message.SerializeToString())
                    await asyncio.sleep(
                        0
                    )  # grpclib's send need not wait: let others run, and hear of the peer's end
        except TimeoutError:
            if limit.expired():
                raise StatusError(*TIMEOUT) from None
            raise
        except asyncio.CancelledError:
            if self._ending and self._task is not None and not self._task.uncancel():
                raise StatusError(*SHUTTING_DOWN) from None
            raise

    def end_wait(self) -> None:
        """The server shuts down: say so instead of the next message."""
        if self._task is not None and not self._ending:
            self._ending = True
            self._task.cancel()
