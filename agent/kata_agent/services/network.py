"""Handlers about the network: interfaces, routes, neighbours, packet filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest
from kata_agent.network import wanted
from kata_agent.network.apply import telling
from kata_agent.network.value import (
    AF_INET6,
    Malformed,
    format_ip,
    format_link_address,
    parse_ip,
    parse_mac,
    parse_prefix,
)
from kata_protocols.gen import agent_pb2, types_pb2
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.network.network import Interfaces, Routes
    from kata_linux.rtmessage import Address, Link, Route

IFF_NOARP = 0x80


async def update_interface(agent: Agent, request: agent_pb2.UpdateInterfaceRequest) -> types_pb2.Interface:
    """Give an interface its name, addresses and MTU, and set it up."""
    if not request.HasField("interface"):
        raise InvalidRequest("empty update interface request")
    with telling("update interface"):
        interface = _decode_interface(request.interface)
    await agent.network.update_interface(interface)
    return request.interface


def _decode_interface(message: types_pb2.Interface) -> wanted.WantedInterface:
    if not message.hwAddr and not message.devicePath:
        raise Malformed("neither hwAddr nor devicePath says which interface is meant")
    return wanted.WantedInterface(
        wanted.check_name(message.name),
        parse_mac(message.hwAddr, "hwAddr") if message.hwAddr else b"",
        message.devicePath,
        tuple(_decode_address(item) for item in message.IPAddresses),
        wanted.check_mtu(message.mtu),
        bool(message.raw_flags & IFF_NOARP),
    )


def _decode_address(message: types_pb2.IPAddress) -> wanted.WantedAddress:
    address = parse_ip(message.address, "address")
    return wanted.WantedAddress(
        address, parse_prefix(message.mask, address, f"address {message.address}: mask")
    )


async def update_routes(agent: Agent, request: agent_pb2.UpdateRoutesRequest) -> agent_pb2.Routes:
    """Add routes; the answer is every route there is then."""
    if not request.HasField("routes"):
        raise InvalidRequest("empty update routes request")
    with telling("update routes"):
        routes = [_decode_route(item) for item in request.routes.Routes]
    return _encode_routes(await agent.network.update_routes(routes))


def _decode_route(item: types_pb2.Route) -> wanted.WantedRoute:
    return wanted.parse_route(
        dest=item.dest,
        gateway=item.gateway,
        device=item.device,
        source=item.source,
        scope=item.scope,
        v6=item.family == types_pb2.v6,
        flags=item.flags,
        mtu=item.mtu,
    )


async def list_interfaces(agent: Agent, _request: agent_pb2.ListInterfacesRequest) -> agent_pb2.Interfaces:
    """Every interface with its addresses."""
    found = await agent.network.list_interfaces()
    return agent_pb2.Interfaces(Interfaces=[_encode_link(link, found) for link in found.links])


def _encode_link(link: Link, found: Interfaces) -> types_pb2.Interface:
    return types_pb2.Interface(
        name=link.name,
        hwAddr=format_link_address(link.address),
        mtu=link.mtu,
        IPAddresses=[_encode_address(item) for item in found.addresses if item.link == link.number],
    )


def _encode_address(address: Address) -> types_pb2.IPAddress:
    family = types_pb2.v6 if address.family == AF_INET6 else types_pb2.v4
    return types_pb2.IPAddress(address=format_ip(address.peer), mask=str(address.prefix), family=family)


async def list_routes(agent: Agent, _request: agent_pb2.ListRoutesRequest) -> agent_pb2.Routes:
    """Every route of the main table."""
    return _encode_routes(await agent.network.list_routes())


def _encode_routes(found: Routes) -> agent_pb2.Routes:
    return agent_pb2.Routes(Routes=[_encode_route(route, found.names) for route in found.routes])


def _encode_route(route: Route, names: dict[int, str]) -> types_pb2.Route:
    destination = format_ip(route.destination)
    if route.source:
        source = f"{format_ip(route.source)}/{route.source_prefix}"
    else:
        source = format_ip(route.preferred_source) if route.preferred_source else ""
    return types_pb2.Route(
        # hosts know a default route by the bare address of zeros
        dest=f"{destination}/{route.prefix}" if route.prefix else destination,
        gateway=format_ip(route.gateway) if route.gateway else "",
        device=names.get(route.link, ""),
        source=source,
        scope=route.scope,
        family=types_pb2.v6 if route.family == AF_INET6 else types_pb2.v4,
        mtu=route.mtu,
    )


async def add_arp_neighbors(agent: Agent, request: agent_pb2.AddARPNeighborsRequest) -> Empty:
    """Add entries to the neighbour table."""
    if not request.HasField("neighbors"):
        raise InvalidRequest("empty add arp neighbours request")
    with telling("add arp neighbors"):
        neighbours = [_decode_neighbour(item) for item in request.neighbors.ARPNeighbors]
    await agent.network.add_neighbours(neighbours)
    return Empty()


def _decode_neighbour(item: types_pb2.ARPNeighbor) -> wanted.WantedNeighbour:
    return wanted.parse_neighbour(
        address=item.toIPAddress.address,
        device=item.device,
        lladdr=item.lladdr,
        state=item.state,
        flags=item.flags,
    )


async def get_ip_tables(agent: Agent, request: agent_pb2.GetIPTablesRequest) -> agent_pb2.GetIPTablesResponse:
    """The packet filter's rules."""
    from kata_agent.network import iptables

    return agent_pb2.GetIPTablesResponse(data=await iptables.save(agent.exits, v6=request.is_ipv6))


async def set_ip_tables(agent: Agent, request: agent_pb2.SetIPTablesRequest) -> agent_pb2.SetIPTablesResponse:
    """Replace the packet filter's rules."""
    from kata_agent.network import iptables

    output = await iptables.restore(agent.exits, request.data, v6=request.is_ipv6)
    return agent_pb2.SetIPTablesResponse(data=output)


HANDLERS = {
    "UpdateInterface": update_interface,
    "UpdateRoutes": update_routes,
    "ListInterfaces": list_interfaces,
    "ListRoutes": list_routes,
    "AddARPNeighbors": add_arp_neighbors,
    "GetIPTables": get_ip_tables,
    "SetIPTables": set_ip_tables,
}
