"""Services and methods as the generated descriptors have them; loaded when first asked for.

`services.AGENT_SERVICE`, `services.HEALTH_SERVICE` and `services.SANDBOX_SERVICE` are module attributes made on
demand, so that a program that needs only one of them pays for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from kata_protocols.messages import CLASSES

if TYPE_CHECKING:
    from google.protobuf.message import Message

    AGENT_SERVICE: Service
    HEALTH_SERVICE: Service
    SANDBOX_SERVICE: Service


class Method(NamedTuple):
    """One method: its service's full name, its bare name and its message classes.

    `server_streaming`: one request, any number of responses. Nothing of the house has a client's stream.
    """

    service: str
    name: str
    request_type: type[Message]
    response_type: type[Message]
    server_streaming: bool = False


class Service(NamedTuple):
    """One service: its full name, as envelopes carry it, and its methods by name in declaration order."""

    name: str
    methods: Mapping[str, Method]


# attribute -> (generated module, service name inside it)
_SOURCES = {
    "AGENT_SERVICE": ("agent_pb2", "AgentService"),
    "HEALTH_SERVICE": ("health_pb2", "Health"),
    "SANDBOX_SERVICE": ("sandbox_pb2", "Sandbox"),
}


def load_service(module: str, name: str) -> Service:
    """Read a service from the descriptor of `kata_protocols.gen.<module>`."""
    descriptor = import_module(f"kata_protocols.gen.{module}").DESCRIPTOR.services_by_name[name]
    service: str = descriptor.full_name
    methods = {
        method.name: Method(
            service,
            method.name,
            CLASSES[method.input_type.full_name],
            CLASSES[method.output_type.full_name],
            method.server_streaming,
        )
        for method in descriptor.methods
    }
    return Service(service, methods)


def __getattr__(name: str) -> Service:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    service = load_service(*_SOURCES[name])
    globals()[name] = service
    return service
