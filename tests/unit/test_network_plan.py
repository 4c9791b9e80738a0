"""From what is there and what is wanted to requests: the planner's rules, as tables."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kata_agent.errors import NotFound
from kata_agent.network import apply, ops, pci, wanted
from kata_agent.network import plan as planning
from kata_agent.network.apply import RequestFailed, settle
from kata_agent.network.plan import Observation, plan_interface, plan_neighbours, plan_routes
from kata_agent.network.value import Malformed, parse_ip, parse_prefix
from kata_agent.network.wanted import WantedAddress, WantedInterface, parse_neighbour, parse_route
from kata_linux import netlink_attribute, rtmessage
from kata_linux.netlink import Refused, check_error
from kata_linux.rtmessage import Address, Link, Neighbour, Route

ANY = "0.0.0.0"  # noqa: S104 - how hosts know a default route
A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ETH0, ETH1 = Link(2, "eth0", A, 1500, 0), Link(3, "eth1", B, 1500, 0)
UP = 0x1
FOUR, SIX = WantedAddress(parse_ip("10.1.0.2", ""), 24), WantedAddress(parse_ip("fd00::2", ""), 64)


def plan(seen: Observation, **fields: object) -> list[str]:
    asked = WantedInterface(**{"name": "eth0", "mac": A, "mtu": 1500, **fields})  # type: ignore[arg-type]  # test data
    return [ops.describe(each) for each in plan_interface(asked, seen)]


def seen(*links: Link, **fields: object) -> Observation:
    return Observation(links, **{"addresses": (), **fields})  # type: ignore[arg-type]  # test data


def up(link: Link) -> Link:
    return link._replace(flags=link.flags | UP)


@pytest.mark.parametrize(
    ("observation", "fields", "expected"),
    [
        (seen(up(ETH0)), {}, []),
        (seen(ETH0), {}, ["set interface eth0 up"]),
        (seen(up(ETH0)), {"mtu": 0}, []),
        (seen(up(ETH0)), {"mtu": 1400}, ["set interface eth0 mtu 1400"]),
        (seen(up(ETH0)), {"name": ""}, []),
        (seen(up(ETH0)), {"no_arp": True}, ["set interface eth0 noarp"]),
        (seen(up(ETH0)._replace(flags=0x81)), {}, ["set interface eth0 arp"]),
        (seen(ETH0), {"no_arp": True}, ["set interface eth0 up noarp"]),
        (seen(up(ETH0)), {"name": "net0"}, ["rename interface eth0 to net0"]),
        (
            seen(up(ETH0), live_rename=False),
            {"name": "net0"},
            ["set interface eth0 down", "rename interface eth0 to net0", "set interface net0 up"],
        ),
        (
            seen(up(ETH0), up(ETH1)),
            {"name": "eth1"},
            [
                "rename interface eth1 to eth1_temp",
                "rename interface eth0 to eth1",
                "rename interface eth1_temp to eth0",
            ],
        ),
        (
            seen(up(ETH0), up(ETH1), live_rename=False),
            {"name": "eth1"},
            [
                "set interface eth0 down",
                "set interface eth1 down",
                "rename interface eth1 to eth1_temp",
                "rename interface eth0 to eth1",
                "rename interface eth1_temp to eth0",
                "set interface eth0 up",
                "set interface eth1 up",
            ],
        ),
        (
            seen(up(ETH0), ETH1, Link(4, "eth1_temp", b"", 0, 0)),
            {"name": "eth1"},
            [
                "rename interface eth1 to eth1_temp1",
                "rename interface eth0 to eth1",
                "rename interface eth1_temp1 to eth0",
                "set interface eth0 up",
            ],
        ),
        (
            seen(up(ETH0)),
            {"addresses": (FOUR, SIX, FOUR)},
            ["add address 10.1.0.2/24 to eth0", "add address fd00::2/64 to eth0"],
        ),
        (seen(up(ETH0), ipv6=False), {"addresses": (SIX,)}, []),
        (
            seen(up(ETH0), addresses=[Address(2, 2, 24, FOUR.address, FOUR.address)]),
            {"addresses": (FOUR,)},
            [],
        ),
        (
            seen(up(ETH0), addresses=[Address(2, 2, 16, FOUR.address, FOUR.address)]),
            {"addresses": (FOUR,)},
            ["remove address 10.1.0.2/16 from eth0", "add address 10.1.0.2/24 to eth0"],
        ),
        (
            seen(up(ETH0), addresses=[Address(3, 2, 24, FOUR.address, FOUR.address)]),
            {"addresses": (FOUR,)},
            ["add address 10.1.0.2/24 to eth0"],
        ),
        (
            seen(up(ETH0), live_rename=False, addresses=[Address(2, 10, 64, SIX.address)]),
            {"name": "net0", "addresses": (SIX,)},
            [
                "set interface eth0 down",
                "rename interface eth0 to net0",
                "set interface net0 up",
                "add address fd00::2/64 to net0",
            ],
        ),
    ],
)
def test_an_interface_s_plan_is_the_difference(
    observation: Observation, fields: dict[str, object], expected: list[str]
) -> None:
    assert plan(observation, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mac": A}, 2),
        ({"mac": B}, 3),
        ({"mac": A, "name": "port"}, 4),  # it shares its address with eth0
        ({"mac": b"", "device_path": "02"}, 3),
        ({"mac": B, "device_path": "02"}, 3),
    ],
)
def test_an_interface_is_found_by_address_and_by_place(fields: dict[str, object], expected: int) -> None:
    observation = seen(ETH0, ETH1, Link(4, "port", A, 1500, 0), at_device_path=frozenset({"eth1"}))
    asked = WantedInterface(**{"name": "x", **fields, "no_arp": True})  # type: ignore[arg-type]  # test data
    flags = next(item for item in plan_interface(asked, observation) if isinstance(item, ops.SetFlags))
    assert flags.link == expected


def test_another_interface_at_the_place_is_named_in_the_error() -> None:
    asked = WantedInterface("eth0", A, "02")
    with pytest.raises(NotFound, match="at PCI path 02: there is eth1 with address 02:00:00:00:00:02"):
        plan_interface(asked, seen(ETH0, ETH1, at_device_path=frozenset({"eth1"})))


def test_every_operation_is_taken_back_by_its_inverse() -> None:
    observation = seen(up(ETH0), up(ETH1), live_rename=False)
    asked = WantedInterface("eth1", A, mtu=1400, addresses=(FOUR,), no_arp=True)
    for operation in plan_interface(asked, observation):
        assert ops.invert(ops.invert(operation)) == operation


def route(
    dest: str = "", gateway: str = "", device: str = "eth0", *, v6: bool = False, **fields: object
) -> object:
    values = {"source": "", "scope": 0, "flags": 0, "mtu": 0, **fields}
    return parse_route(dest=dest, gateway=gateway, device=device, v6=v6, **values)  # type: ignore[arg-type]  # test data


@pytest.mark.parametrize(
    ("dest", "gateway", "v6", "source", "expected"),
    [
        ("", "10.1.0.1", False, "", (2, ANY, 0)),
        ("", "", True, "", (10, "::", 0)),
        ("", "fd00::1", False, "", (10, "::", 0)),
        (ANY, "10.1.0.1", False, "", (2, ANY, 0)),
        ("::", "fd00::1", True, "", (10, "::", 0)),
        ("10.1.0.9", "", False, "", (2, "10.1.0.9", 32)),
        ("10.1.0.9/24", "", False, "", (2, "10.1.0.0", 24)),
        ("fd00::9", "", False, "", (10, "fd00::9", 128)),
        ("fd00::9/64", "", True, "", (10, "fd00::", 64)),
    ],
)
def test_a_route_s_family_and_destination(
    dest: str, gateway: str, source: str, expected: tuple[int, str, int], *, v6: bool
) -> None:
    parsed = parse_route(
        dest=dest, gateway=gateway, device="eth0", source=source, scope=0, v6=v6, flags=0, mtu=0
    )
    assert (parsed.family, parsed.destination, parsed.prefix) == (
        expected[0],
        parse_ip(expected[1], ""),
        expected[2],
    )


@pytest.mark.parametrize(
    ("source", "preferred", "network"),
    [
        ("10.1.0.2", "10.1.0.2", None),
        ("10.1.0.2/0", ANY, None),
        ("10.1.0.0/24", None, ("10.1.0.0", 24)),
    ],
)
def test_a_bare_source_is_the_preferred_one(
    source: str, preferred: str | None, network: tuple[str, int] | None
) -> None:
    parsed = parse_route(
        dest="10.0.0.0/8", gateway="", device="eth0", source=source, scope=0, v6=False, flags=0, mtu=0
    )
    assert parsed.preferred_source == (parse_ip(preferred, "") if preferred else b"")
    assert (parsed.source, parsed.source_prefix) == (
        (parse_ip(network[0], ""), network[1]) if network else (b"", 0)
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dest": "10.0.0.0/8", "v6": True}, "do not belong together"),
        ({"dest": "10.0.0.0/8", "source": "fd00::1"}, "do not belong together"),
        ({"dest": "10.0.0.0/33"}, "'33' is not the length of a prefix, 0 to 32"),
        ({"dest": "10.0.0.0/"}, "'' is not the length of a prefix"),
        ({"dest": "ten"}, "route: destination 'ten' is not an IP address"),
        ({"gateway": "10.0.0.1/8"}, "route: gateway '10.0.0.1/8' is not an IP address"),
    ],
)
def test_a_route_that_does_not_parse_is_told_by_name(fields: dict[str, object], text: str) -> None:
    with pytest.raises(Malformed, match=text):
        route(**fields)  # type: ignore[arg-type]  # test data


@pytest.mark.parametrize("name", ["a234567890123456", "a/b", "eth%d", "a b", "..", "a:b"])
def test_a_name_that_the_kernel_would_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match="interface name"):
        wanted.check_name(name)


def test_routes_without_a_gateway_come_first_and_equal_ones_once() -> None:
    first, second = route("10.1.0.0/16", "10.0.0.1"), route("10.0.0.0/24")
    plan = plan_routes([first, second, first], [ETH0], [])  # type: ignore[list-item]  # test data
    assert [ops.describe(each) for each in plan] == [
        "add route 10.0.0.0/24 dev eth0",
        "add route 10.1.0.0/16 via 10.0.0.1 dev eth0",
    ]


def test_only_routes_of_one_network_are_compared_as_hosts_may_send_thousands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[Route] = []
    is_same = planning.is_same_route
    monkeypatch.setattr(
        planning, "is_same_route", lambda old, new: (compared.append(old), is_same(old, new))[1]
    )
    many = [route(f"10.{number >> 8}.{number & 255}.0/24") for number in range(2000)]
    there = [Route(2, parse_ip("10.0.7.0", ""), 24, 2)]
    assert len(plan_routes([*many, many[5]], [ETH0], there)) == 1999  # type: ignore[arg-type]  # test data
    assert len(compared) == 2, "each wanted one with those of its own network"


def test_an_mtu_beyond_the_kernel_s_field_is_refused_by_name() -> None:
    assert wanted.check_mtu(0xFFFF_FFFF) == 0xFFFF_FFFF
    with pytest.raises(Malformed, match="mtu 4294967296 is more than any interface has"):
        wanted.check_mtu(1 << 32)


def test_a_prefix_of_thousands_of_digits_is_no_prefix() -> None:
    with pytest.raises(Malformed, match="is not the length of a prefix, 0 to 32"):
        parse_prefix("1" * 5000, bytes(4), "mask")
    assert parse_prefix("0024", bytes(4), "mask") == 24


def test_a_route_of_the_same_metric_is_replaced_and_taken_back_to_what_it_was() -> None:
    old = Route(2, parse_ip("10.1.0.0", ""), 16, 2, parse_ip("10.0.0.9", ""), protocol=4)
    other = old._replace(metric=5)
    (put,) = plan_routes([route("10.1.0.0/16", "10.0.0.1")], [ETH0], [other, old])  # type: ignore[list-item]  # test data
    assert isinstance(put, ops.PutRoute)
    assert put.before == old
    inverse = ops.invert(put)
    assert isinstance(inverse, ops.PutRoute)
    assert inverse.route == old


def test_neighbours_that_are_there_are_left_alone() -> None:
    asked = parse_neighbour(
        address="10.0.0.1", device="eth0", lladdr="02:00:00:00:00:09", state=0, flags=0x101
    )
    there = Neighbour(2, 2, parse_ip("10.0.0.1", ""), bytes.fromhex("020000000009"), 0x80, 1)
    assert plan_neighbours([asked], [ETH0], [there]) == ()
    (put,) = plan_neighbours([asked, asked], [ETH0], [there._replace(state=2)])
    assert ops.describe(put) == "change neighbor 10.0.0.1 lladdr 02:00:00:00:00:09 dev eth0"


@pytest.mark.parametrize(
    ("dest", "prefix", "broadcast"),
    [("10.1.2.3", 24, "10.1.2.255"), ("10.1.2.3", 32, "10.1.2.3"), ("10.1.2.3", 0, "255.255.255.255")],
)
def test_broadcast_is_all_host_bits(dest: str, prefix: int, broadcast: str) -> None:
    asked = WantedInterface("eth0", A, addresses=(WantedAddress(parse_ip(dest, ""), prefix),))
    put = plan_interface(asked, seen(up(ETH0)))[-1]
    assert isinstance(put, ops.PutAddress)
    assert put.address.broadcast == parse_ip(broadcast, "")


RECORDS = [
    (rtmessage.pack_address, rtmessage.unpack_address, Address(2, 2, 24, b"1234", b"1234", 2, b"1255")),
    (rtmessage.pack_neighbour, rtmessage.unpack_neighbour, Neighbour(2, 10, b"6" * 16, A, 0x80, 1)),
    (
        rtmessage.pack_route,
        lambda body: rtmessage.unpack_routes(body)[0],
        Route(10, b"6" * 16, 64, 2, b"7" * 16, 3, b"8" * 16, 48, b"9" * 16, 1400, 7, 4, 4, 1, 254),
    ),
    (
        rtmessage.pack_route,
        lambda body: rtmessage.unpack_routes(body)[0],
        Route(2, b"1234", 32, 2, b"7" * 16),
    ),
]


@pytest.mark.parametrize(("pack", "unpack", "record"), RECORDS)
def test_a_message_holds_what_its_record_says(pack: object, unpack: object, record: object) -> None:
    assert unpack(pack(record)) == record  # type: ignore[operator]  # a table of functions


def test_a_cut_message_ends_without_a_defect() -> None:
    body = rtmessage.pack_route(Route(2, b"1234", 32, 2, b"5678"))
    for length in range(12, len(body)):
        rtmessage.unpack_routes(body[:length])


def test_the_kernel_s_own_words_are_in_the_error() -> None:
    said = netlink_attribute.pack_attributes({1: b"because\0"})
    body = (-22).to_bytes(4, "little", signed=True) + bytes(16) + said
    with pytest.raises(Refused) as caught:
        check_error(0x200, body)
    assert apply.explain(caught.value) == "EINVAL: Invalid argument (kernel: because)"


def test_interfaces_are_found_behind_a_bridge(tmp_path: Path) -> None:
    root = tmp_path / "devices/pci0000:00"
    (root / "0000:00:02.0/pci_bus/0000:01").mkdir(parents=True)
    (root / "0000:00:02.0/0000:01:00.0/virtio5/net/enp1s0").mkdir(parents=True)
    (root / "0000:00:03.1/net/vf0").mkdir(parents=True)
    (root / "0000:00:04.0").mkdir()
    assert pci.find_interfaces(str(tmp_path), "02/00") == {"enp1s0"}
    assert pci.find_interfaces(str(tmp_path), "3.1") == {"vf0"}
    for path, text in (
        ("05", "there is no device 0000:00:05.0"),
        ("02/01", "there is no device 0000:01:01.0"),
        ("04", "the device 0000:00:04.0 has no network interface"),
        ("04/00", "is not a bridge to exactly one bus"),
    ):
        with pytest.raises(NotFound, match=text):
            pci.find_interfaces(str(tmp_path), path)


class Change:
    """Fails so many times with this errno."""

    def __init__(self, failures: int, number: int) -> None:
        self.calls = 0
        self._failures = failures
        self._number = number

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise RequestFailed("rename interface eth0 to eth1", self._number)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_name_that_was_taken_in_between_is_looked_at_anew(failures: int) -> None:
    change = Change(failures, errno.EEXIST)
    settle(change)
    assert change.calls == failures + 1


@pytest.mark.parametrize(("number", "calls"), [(errno.EEXIST, 3), (errno.EBUSY, 1)])
def test_a_name_that_stays_taken_and_every_other_refusal_is_told(number: int, calls: int) -> None:
    change = Change(9, number)
    with pytest.raises(RequestFailed, match="rename interface eth0 to eth1"):
        settle(change)
    assert change.calls == calls
