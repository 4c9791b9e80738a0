"""The network calls on real links: an agent in a network namespace of its own, looked at by iproute2."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_testing.native_agent import CallError, Connection, NativeAgent, start_agent

pytestmark = pytest.mark.requires("root", "netns", "iproute2")

V6 = 1
PAIRS = 50
DEFAULT = "0.0.0.0"  # noqa: S104 - how hosts know a default route


class Namespace:
    """The agent's network namespace."""

    def __init__(self, agent: NativeAgent) -> None:
        self._enter = ("nsenter", f"--net=/proc/{agent.process.pid}/ns/net")
        self.pid = agent.process.pid

    def ip(self, *args: str, stdin: str | None = None) -> str:
        command = [*self._enter, "ip", *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, input=stdin)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def show(self, *args: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ip("-json", *args) or "[]")
        return found

    def link(self, name: str) -> dict[str, Any]:
        return self.show("link", "show", "dev", name)[0]

    def addresses(self, name: str) -> list[str]:
        """Addresses of a link, without those that the kernel gives by itself."""
        found = self.show("address", "show", "dev", name)[0]["addr_info"]
        return [f"{item['local']}/{item['prefixlen']}" for item in found if item["scope"] != "link"]

    def routes(self, version: str = "-4") -> list[dict[str, Any]]:
        """Routes, without what follows the carrier by itself: state and link-local networks."""
        found = self.show(version, "route", "show")
        return [{**item, "flags": []} for item in found if not item["dst"].startswith("fe80:")]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[NativeAgent]:
    with start_agent(tmp_path, under=("unshare", "--net")) as running:
        yield running


@pytest.fixture
def namespace(agent: NativeAgent) -> Namespace:
    return Namespace(agent)


@pytest.fixture
def connection(agent: NativeAgent) -> Iterator[Connection]:
    with agent.connect() as opened:
        yield opened


@pytest.fixture
def pair(namespace: Namespace) -> Namespace:
    """Two ends of one cable, both down: `eth0` and `eth1`."""
    namespace.ip("link", "add", "eth0", "address", mac(0), "type", "veth", "peer", "eth1", "address", mac(1))
    return namespace


def mac(number: int) -> str:
    return f"02:00:ca:fe:{number >> 8:02x}:{number & 255:02x}"


def interface(number: int, name: str, *addresses: str, **fields: Any) -> dict[str, Any]:
    parts = [address.split("/") for address in addresses]
    return {
        "name": name,
        "hwAddr": mac(number),
        "mtu": 1500,
        "IPAddresses": [
            {"address": address, "mask": mask, "family": int(":" in address)} for address, mask in parts
        ],
        **fields,
    }


def update(connection: Connection, *args: Any, **fields: Any) -> Any:
    return connection.call("UpdateInterface", interface=interface(*args, **fields))


def add_routes(connection: Connection, *routes: dict[str, Any]) -> list[dict[str, Any]]:
    reply = connection.call("UpdateRoutes", routes={"Routes": list(routes)})
    return [{field.name: value for field, value in route.ListFields()} for route in reply.Routes]


def test_an_interface_is_named_addressed_sized_and_set_up(pair: Namespace, connection: Connection) -> None:
    asked = interface(0, "net0", "10.1.0.2/24", "fd00:1::2/64", mtu=1400, type="veth", device="tap0")
    reply = connection.call("UpdateInterface", interface=asked)
    assert {field.name for field, _ in reply.ListFields()} == set(asked), "the reply is the request"
    link = pair.link("net0")
    assert link["mtu"] == 1400
    assert "UP" in link["flags"]
    assert "NOARP" not in link["flags"]
    found = pair.show("address", "show", "dev", "net0")[0]["addr_info"]
    four = next(item for item in found if item["family"] == "inet")
    assert (four["local"], four["prefixlen"], four["broadcast"]) == ("10.1.0.2", 24, "10.1.0.255")
    six = next(item for item in found if item["local"] == "fd00:1::2")
    assert six["prefixlen"] == 64
    assert six["nodad"]
    assert not six.get("tentative")


def test_raw_flags_turn_arp_off_and_on_again(pair: Namespace, connection: Connection) -> None:
    update(connection, 0, "eth0", raw_flags=0x80)
    assert "NOARP" in pair.link("eth0")["flags"]
    update(connection, 0, "eth0")
    assert "NOARP" not in pair.link("eth0")["flags"]


def test_an_interface_that_is_as_wanted_keeps_its_routes_and_addresses(
    pair: Namespace, connection: Connection
) -> None:
    for number in (0, 1):
        update(connection, number, f"eth{number}", f"10.1.0.{number + 2}/24", "fd00:1::2/64")
    pair.ip("address", "add", "10.9.9.9/32", "dev", "eth0")
    pair.ip("route", "add", "10.7.0.0/16", "via", "10.1.0.77", "dev", "eth0")
    before = pair.addresses("eth0"), pair.routes(), pair.routes("-6")
    update(connection, 0, "eth0", "10.1.0.2/24", "10.1.0.2/24", "fd00:1::2/64")
    assert (pair.addresses("eth0"), pair.routes(), pair.routes("-6")) == before


def test_an_address_of_another_prefix_length_is_changed(pair: Namespace, connection: Connection) -> None:
    update(connection, 0, "eth0", "10.1.0.2/24", "fd00:1::2/64")
    update(connection, 0, "eth0", "10.1.0.2/16", "fd00:1::2/48")
    assert sorted(pair.addresses("eth0")) == ["10.1.0.2/16", "fd00:1::2/48"]


@pytest.mark.parametrize("up", [False, True])
def test_two_interfaces_swap_their_names(pair: Namespace, connection: Connection, *, up: bool) -> None:
    if up:
        pair.ip("link", "set", "eth0", "up")
        pair.ip("link", "set", "eth1", "up")
    update(connection, 0, "eth1")
    assert {item["address"]: item["ifname"] for item in pair.show("link", "show", "type", "veth")} == {
        mac(0): "eth1",
        mac(1): "eth0",
    }
    assert all("UP" in pair.link(name)["flags"] for name in ("eth0", "eth1"))


def test_a_name_of_full_length_is_taken_over(pair: Namespace, connection: Connection) -> None:
    name = "a23456789012345"
    pair.ip("link", "set", "eth1", "name", name)
    update(connection, 0, name)
    assert pair.link(name)["address"] == mac(0)
    assert pair.link("eth0")["address"] == mac(1)


def test_list_interfaces_tells_the_truth(pair: Namespace, connection: Connection) -> None:
    update(connection, 0, "eth0", "10.1.0.2/24", "fd00:1::2/64", mtu=1400)
    found = {item.name: item for item in connection.call("ListInterfaces").Interfaces}
    assert set(found) == {"lo", "eth0", "eth1"}
    eth0 = found["eth0"]
    assert (eth0.hwAddr, eth0.mtu) == (mac(0).upper(), 1400)
    assert {(item.address, item.mask, item.family) for item in eth0.IPAddresses} >= {
        ("10.1.0.2", "24", 0),
        ("fd00:1::2", "64", V6),
    }
    assert (eth0.device, eth0.type, eth0.raw_flags, eth0.devicePath) == ("", "", 0, "")


def test_routes_are_added_whatever_their_order(pair: Namespace, connection: Connection) -> None:
    update(connection, 0, "eth0", "10.1.0.2/32", "fd00:1::2/128")
    update(connection, 1, "eth1")
    listed = add_routes(
        connection,
        {"gateway": "10.1.0.1", "device": "eth0"},
        {"gateway": "fd00:1::1", "device": "eth0", "family": V6},
        {"dest": "10.3.0.0/16", "gateway": "10.1.0.1", "device": "eth0", "mtu": 1300, "source": "10.1.0.2"},
        {"dest": "fd00:3::/48", "gateway": "fd00:1::1", "device": "eth0", "family": V6},
        {"dest": "10.1.0.1", "device": "eth0", "scope": 253},
        {"dest": "fd00:1::1", "device": "eth0", "family": V6},
    )
    four = {item["dst"]: item for item in pair.routes()}
    assert four["default"]["gateway"] == "10.1.0.1"
    assert four["10.1.0.1"]["scope"] == "link"
    assert four["10.3.0.0/16"]["prefsrc"] == "10.1.0.2"
    assert four["10.3.0.0/16"]["metrics"] == [{"mtu": 1300}]
    six = {item["dst"]: item for item in pair.routes("-6")}
    assert six["default"]["gateway"] == "fd00:1::1"
    assert six["fd00:3::/48"]["gateway"] == "fd00:1::1"
    assert {"dest": DEFAULT, "gateway": "10.1.0.1", "device": "eth0"} in listed
    assert {"dest": "::", "gateway": "fd00:1::1", "device": "eth0", "family": V6} in listed
    assert {"dest": "10.1.0.1/32", "device": "eth0", "scope": 253} in listed
    wanted = {
        "dest": "10.3.0.0/16",
        "gateway": "10.1.0.1",
        "device": "eth0",
        "mtu": 1300,
        "source": "10.1.0.2",
    }
    assert wanted in listed
    listing = connection.call("ListRoutes").Routes
    before = pair.routes(), pair.routes("-6")
    connection.call("UpdateRoutes", routes={"Routes": listing})
    assert (pair.routes(), pair.routes("-6")) == before, (
        "what is listed can be sent back, and changes nothing"
    )


def test_a_route_twice_is_one_route_and_none_is_deleted(pair: Namespace, connection: Connection) -> None:
    update(connection, 0, "eth0", "10.1.0.2/24")
    route = {"dest": "10.3.0.0/16", "gateway": "10.1.0.1", "device": "eth0"}
    add_routes(connection, route, route)
    add_routes(connection, {"dest": "10.4.0.0/16", "gateway": "10.1.0.1", "device": "eth0"})
    destinations = [item["dst"] for item in pair.routes()]
    assert sorted(destinations) == ["10.1.0.0/24", "10.3.0.0/16", "10.4.0.0/16"]


def test_a_route_that_cannot_be_is_named_and_leaves_none_of_its_call(
    pair: Namespace, connection: Connection
) -> None:
    update(connection, 0, "eth0", "10.1.0.2/24")
    before = pair.routes()
    with pytest.raises(CallError) as caught:
        add_routes(
            connection,
            {"dest": "10.3.0.0/16", "device": "eth0", "scope": 253},
            {"dest": "10.4.0.0/16", "gateway": "192.0.2.9", "device": "eth0"},
        )
    assert str(caught.value) == (
        "INTERNAL: update routes: Failed to add IP v4 route (src: , dst: 10.4.0.0/16, gtw: 192.0.2.9, dev: eth0,"
        " Err: ENETUNREACH: Network is unreachable (kernel: Nexthop has invalid gateway))"
    )
    assert pair.routes() == before


def test_a_refused_interface_is_left_as_it_was(pair: Namespace, connection: Connection) -> None:
    before = essence(pair)
    with pytest.raises(CallError) as caught:
        update(connection, 0, "eth1", "10.1.0.2/24", mtu=70000)
    assert str(caught.value) == (
        "INTERNAL: update interface: set interface eth1 mtu 70000: EINVAL: Invalid argument"
        " (kernel: mtu greater than device maximum)"
    )
    assert essence(pair) == before


def essence(namespace: Namespace) -> list[tuple[object, ...]]:
    words = ("ifname", "address", "mtu", "flags")
    return [tuple(item[word] for word in words) for item in namespace.show("link", "show")]


@pytest.mark.parametrize(
    ("method", "fields", "text"),
    [
        ("UpdateInterface", {}, "INVALID_ARGUMENT: empty update interface request"),
        ("UpdateRoutes", {}, "INVALID_ARGUMENT: empty update routes request"),
        ("AddARPNeighbors", {}, "INVALID_ARGUMENT: empty add arp neighbours request"),
        (
            "UpdateInterface",
            {"interface": interface(9, "eth0")},
            "INTERNAL: update interface: Link not found (Address: 02:00:CA:FE:00:09)",
        ),
        (
            "UpdateInterface",
            {"interface": interface(0, "eth0", hwAddr="02:00")},
            "INTERNAL: update interface: hwAddr '02:00' is not a hardware address like 02:00:ca:fe:00:01",
        ),
        (
            "UpdateInterface",
            {"interface": interface(0, "a234567890123456")},
            "INTERNAL: update interface: interface name 'a234567890123456' has more than 15 bytes",
        ),
        (
            "UpdateInterface",
            {"interface": interface(0, "eth0", "10.1.0.2/33")},
            "INTERNAL: update interface: address 10.1.0.2: mask '33' is not the length of a prefix, 0 to 32",
        ),
        (
            "UpdateInterface",
            {"interface": interface(0, "eth0", devicePath="1e/1d")},
            "INTERNAL: update interface: Timeout after 3s waiting for uevent network interface at PCI path 1e.0/1d.0: ",
        ),
        (
            "UpdateRoutes",
            {"routes": {"Routes": [{"dest": "10.3.0.0/16", "device": "eth9"}]}},
            "INTERNAL: update routes: Link not found (Name: eth9)",
        ),
        (
            "UpdateRoutes",
            {"routes": {"Routes": [{"dest": "10.3.0/16", "device": "eth0"}]}},
            "INTERNAL: update routes: route: destination '10.3.0' is not an IP address",
        ),
        (
            "AddARPNeighbors",
            {"neighbors": {"ARPNeighbors": [{"device": "eth0"}]}},
            "INTERNAL: add arp neighbors: Unable to determine ip address of ARP neighbor",
        ),
    ],
)
def test_bad_input_is_told_by_name(
    pair: Namespace, connection: Connection, method: str, fields: dict[str, Any], text: str
) -> None:
    before = pair.show("address", "show")
    with pytest.raises(CallError) as caught:
        connection.call(method, **fields)
    assert str(caught.value).startswith(text)
    assert pair.show("address", "show") == before


def test_neighbours_are_permanent_unless_told_otherwise(pair: Namespace, connection: Connection) -> None:
    update(connection, 0, "eth0", "10.1.0.2/24", "fd00:1::2/64")
    neighbours = [
        {"toIPAddress": {"address": "10.1.0.1"}, "device": "eth0", "lladdr": mac(1)},
        {"toIPAddress": {"address": "fd00:1::1"}, "device": "eth0", "lladdr": mac(2), "state": 0x40},
    ]
    for _ in range(2):
        connection.call("AddARPNeighbors", neighbors={"ARPNeighbors": neighbours})
    found = {item["dst"]: item for item in pair.show("neighbor", "show", "nud", "all", "dev", "eth0")}
    assert (found["10.1.0.1"]["lladdr"], found["10.1.0.1"]["state"]) == (mac(1), ["PERMANENT"])
    assert (found["fd00:1::1"]["lladdr"], found["fd00:1::1"]["state"]) == (mac(2), ["NOARP"])


def test_fifty_pairs_are_set_up_with_routes_of_both_families(
    namespace: Namespace, connection: Connection
) -> None:
    lines = [
        f"link add tmp{number} address {mac(number)} type veth peer name peer{number}"
        for number in range(PAIRS)
    ]
    namespace.ip("-batch", "-", stdin="\n".join(lines))
    for number in range(PAIRS):
        update(connection, number, f"eth{number}", f"10.1.{number}.2/24", f"fd00:1{number}::2/64")
    found = {item["ifname"]: item for item in namespace.show("address", "show")}
    for number in range(PAIRS):
        here = {f"{item['local']}/{item['prefixlen']}" for item in found[f"eth{number}"]["addr_info"]}
        assert {f"10.1.{number}.2/24", f"fd00:1{number}::2/64"} <= here
        assert found[f"eth{number}"]["address"] == mac(number)
    routes = [
        {"dest": f"{net}/{bits}", "gateway": gateway, "device": f"eth{number}", "family": family}
        for number in range(PAIRS)
        for net, bits, gateway, family in (
            (f"10.2.{number}.0", 24, f"10.1.{number}.1", 0),
            (f"fd01:1{number}::", 64, f"fd00:1{number}::1", V6),
        )
    ]
    listed = {(item["dest"], item["device"]) for item in add_routes(connection, *routes)}
    assert {(route["dest"], route["device"]) for route in routes} <= listed


def test_two_interfaces_cost_an_idle_agent_little(pair: Namespace, connection: Connection) -> None:
    connection.call("ListInterfaces")  # the messages and the modules, once
    before = anonymous_kb(pair.pid)
    for number in (0, 1):
        update(connection, number, f"eth{number}", f"10.1.0.{number + 2}/24", f"fd00:1::{number + 2}/64")
    add_routes(connection, {"gateway": "10.1.0.1", "device": "eth0"})
    assert anonymous_kb(pair.pid) - before < 1024, "calls must not leave memory behind"
    loaded = Path(f"/proc/{pair.pid}/maps").read_text()
    assert "pyroute2" not in loaded


def anonymous_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous:"))
