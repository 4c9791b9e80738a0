"""The wire's devices: those of a container to be made, and `Sandbox/ListDevices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.devices.request import DeviceRequest
from kata_agent.errors import AlreadyExists

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata_agent.agent import Agent
    from kata_agent.devices.book import Entry
    from kata_protocols.gen import agent_pb2
    from kata_protocols.gen import sandbox_pb2 as pb


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


def list_devices(agent: Agent, _request: pb.ListDevicesRequest) -> pb.ListDevicesResponse:
    """Every device that was waited for."""
    from kata_protocols.gen import sandbox_pb2 as pb

    if not agent.has_devices():
        return pb.ListDevicesResponse()
    devices = [encode_device(entry) for entry in agent.device_book.entries()]
    return pb.ListDevicesResponse(devices=devices, events_lost=agent.hotplug.lost)


def encode_device(entry: Entry) -> pb.Device:
    """A record's message."""
    from kata_agent.devices import book
    from kata_protocols.gen import sandbox_pb2 as pb

    message = pb.Device(
        handler=entry.handler,
        address=entry.text,
        state=entry.state,
        reason=entry.reason,
        containers=sorted(entry.users),
        asked_ns=entry.asked_ns,
        mounted_ns=entry.mounted_ns,
        mount_ns=entry.mount_ns,
    )
    arrival = entry.arrival
    if arrival is not None:
        message.name, message.node = arrival.found.name, arrival.found.node
        message.event_ns, message.ready_ns = arrival.event_ns, arrival.ready_ns
        message.driver = book.find_driver(arrival.found.folder)
        message.group = book.find_group(arrival.found.folder)
    return message


HANDLERS = {"ListDevices": list_devices}
