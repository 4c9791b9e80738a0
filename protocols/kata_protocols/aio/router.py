"""Router: from the names in an envelope to the handler, with the house's answers for names that lead nowhere.

Knows nothing of frames, sockets or what handlers do. Document: the agent's own rules, 3.3.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import Message

from kata_protocols.aio.reply import PipeReply
from kata_protocols.services import Method, Service
from kata_protocols.status import Code, StatusError
from kata_protocols.ttrpc.errors import Fault
from kata_protocols.ttrpc.events import Metadata

UNKNOWN_SERVICE = Fault(Code.INVALID_ARGUMENT, "{service} service does not exist")
UNKNOWN_METHOD = Fault(Code.UNIMPLEMENTED, "{method} method")
# Not UNIMPLEMENTED: a host that sees NOT_FOUND from GetMetrics stops asking.
NOT_SUPPORTED = Fault(Code.NOT_FOUND, "/{service}/{method} is not supported")


class Call:
    """What a handler may know of its call. `deadline` is loop time or None, `peer` text for logs."""

    __slots__ = ("deadline", "metadata", "method", "peer", "service")

    def __init__(
        self, service: str, method: str, metadata: Metadata, deadline: float | None, peer: str
    ) -> None:
        self.service = service
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.peer = peer


Answer = Message | PipeReply
Messages = AsyncGenerator[Message, None]
Handler = Callable[..., Answer | Awaitable[Answer] | Messages]


class Endpoint(NamedTuple):
    """Where a call goes.

    `cancel_on_disconnect` is for handlers that only wait or read: they are cancelled when nobody is left to hear
    them, because the client is gone, the deadline has passed or the server shuts down. Others run to their end.
    A `server_streaming` handler returns an async generator of messages; it always is one of those that are cancelled.
    """

    request_type: type[Message]
    handler: Handler
    cancel_on_disconnect: bool = False
    server_streaming: bool = False


class Router:
    """Maps (service, method) to an Endpoint."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    def add_service(self, service: Service, endpoints: Mapping[str, Endpoint] | None = None) -> None:
        """Serve `service`; methods without an endpoint answer that they are not supported."""
        self.services[service.name] = service
        for name, endpoint in (endpoints or {}).items():
            method = service.methods[name]
            if endpoint.request_type is not method.request_type:
                raise TypeError(
                    f"{service.name}/{name}: takes {method.request_type.__name__}, "
                    f"not {endpoint.request_type.__name__}"
                )
            self._endpoints[service.name, name] = endpoint

    def add(
        self, service: Service, name: str, handler: Handler, *, cancel_on_disconnect: bool = False
    ) -> None:
        """Serve one method."""
        method: Method = service.methods[name]
        streams = method.server_streaming
        endpoint = Endpoint(method.request_type, handler, cancel_on_disconnect or streams, streams)
        self.add_service(service, {name: endpoint})

    def find(self, service: str, method: str) -> Endpoint:
        """Return the endpoint, or raise StatusError with the house's code and text."""
        endpoint = self._endpoints.get((service, method))
        if endpoint is None:
            raise self._missing(service, method)
        return endpoint

    def _missing(self, service: str, method: str) -> StatusError:
        if service not in self.services:
            fault = UNKNOWN_SERVICE
        elif method not in self.services[service].methods:
            fault = UNKNOWN_METHOD
        else:
            fault = NOT_SUPPORTED
        return StatusError(fault.code, fault.text.format(service=service, method=method))
