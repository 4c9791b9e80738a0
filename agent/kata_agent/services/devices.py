"""The wire's devices: those of a container to be made, and `Sandbox/ListDevices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.devices.request import DeviceRequest
from kata_agent.errors import AlreadyExists

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata_agent.agent import Agent
    from kata_protocols.gen import agent_pb2


async def attach_devices(
    agent: Agent, request: agent_pb2.CreateContainerRequest, spec: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification with the guest's devices in it, and what `ContainerRequest.devices` is told of them."""
    if request.container_id in agent.containers.ids():
        raise AlreadyExists(f"container {request.container_id} already exists")
    devices = tuple(decode_devices(request.devices))
    rewritten, attachment = await agent.devices.attach(request.container_id, devices, spec)
    return rewritten, attachment._asdict()


def decode_devices(messages: Iterable[agent_pb2.Device]) -> Iterable[DeviceRequest]:
    """Devices in the order of the request."""
    return (
        DeviceRequest(each.type, each.id, each.vm_path, each.container_path, tuple(each.options))
        for each in messages
    )
