"""What containers get of devices: numbers in the specification, addresses in the environment, what handlers undo."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from kata_agent.devices import attach, disk, environment, rewrite
from kata_agent.devices.attach import Attachment, Devices
from kata_agent.devices.book import Book
from kata_agent.devices.request import DeviceRequest, Handled, Node, check
from kata_agent.errors import AgentError, InvalidRequest, Malformed, NotSupported
from kata_agent.log import Log
from kata_agent.worker import Worker
from kata_testing.wire import run_async

DISK = DeviceRequest("blk", "02/00", container_path="/dev/xvda")
Json = dict[str, Any]


def node_of(path: str, kind: str, major: int, minor: int) -> Json:
    return {"path": path, "type": kind, "major": major, "minor": minor}


def spec_of(devices: Sequence[Json], rules: Sequence[Json] | None = ()) -> Json:
    linux: Json = {"devices": list(devices)}
    if rules is not None:
        linux["resources"] = {"devices": list(rules), "memory": {"limit": 1}}
    return {"linux": linux}


def allow(kind: str, major: int, minor: int) -> Json:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": "rwm"}


def test_device_and_its_rule_get_the_guest_s_numbers_and_the_rest_stays() -> None:
    spec = spec_of(
        [node_of("/dev/xvda", "b", 8, 0), node_of("/dev/null", "c", 1, 3)],
        [{"allow": False, "access": "rwm"}, allow("b", 8, 0), allow("c", 8, 0)],
    )
    result = rewrite.rewrite(spec, {"/dev/xvda": Node("b", 253, 16)})
    assert result["linux"]["devices"] == [node_of("/dev/xvda", "b", 253, 16), node_of("/dev/null", "c", 1, 3)]
    assert result["linux"]["resources"] == {
        "memory": {"limit": 1},
        "devices": [
            {"allow": False, "access": "rwm"},
            allow("b", 253, 16),
            allow("c", 8, 0),
            allow("b", 253, 16),
        ],
    }
    assert spec["linux"]["devices"][0]["major"] == 8


def test_numbers_that_one_device_has_on_the_host_and_another_in_the_guest_are_moved_once() -> None:
    spec = spec_of(
        [node_of("/dev/a", "b", 7, 1), node_of("/dev/b", "b", 8, 2)], [allow("b", 7, 1), allow("b", 8, 2)]
    )
    result = rewrite.rewrite(spec, {"/dev/a": Node("b", 8, 2), "/dev/b": Node("b", 9, 3)})
    assert result["linux"]["resources"]["devices"] == [
        allow("b", 8, 2),
        allow("b", 9, 3),
        allow("b", 8, 2),
        allow("b", 9, 3),
    ]


def test_block_and_character_devices_of_equal_numbers_are_two() -> None:
    spec = spec_of(
        [node_of("/dev/a", "b", 7, 1), node_of("/dev/b", "c", 7, 1)], [allow("b", 7, 1), allow("c", 7, 1)]
    )
    result = rewrite.rewrite(spec, {"/dev/a": Node("b", 8, 2), "/dev/b": Node("c", 9, 3)})
    assert result["linux"]["resources"]["devices"][:2] == [allow("b", 8, 2), allow("c", 9, 3)]


def test_final_path_takes_the_place_of_the_one_that_was_asked_for() -> None:
    result = rewrite.rewrite(
        spec_of([node_of("/dev/vfio/5", "c", 1, 1)]), {"/dev/vfio/5": Node("c", 2, 0, "/dev/vfio/0")}
    )
    assert result["linux"]["devices"] == [node_of("/dev/vfio/0", "c", 2, 0)]


def test_specification_without_resources_gets_the_rule() -> None:
    result = rewrite.rewrite(spec_of([node_of("/dev/a", "b", 1, 1)], None), {"/dev/a": Node("b", 8, 0)})
    assert result["linux"]["resources"] == {"devices": [allow("b", 8, 0)]}


def test_without_devices_nothing_is_touched() -> None:
    assert rewrite.rewrite({}, {}) == {}


@pytest.mark.parametrize(
    ("spec", "nodes", "text"),
    [
        ({}, {"/dev/a": Node("b", 1, 1)}, "Spec didn't contain linux field"),
        (spec_of([]), {"/dev/a": Node("b", 1, 1)}, "Missing devices in OCI spec: /dev/a"),
        (
            spec_of([node_of("/dev/b", "b", 1, 1)]),
            {"/dev/a": Node("b", 1, 1)},
            "Missing devices in OCI spec: /dev/a",
        ),
        (
            spec_of([node_of("/dev/a", "b", 1, 1), node_of("/dev/b", "b", 1, 1)]),
            {"/dev/a": Node("b", 2, 1), "/dev/b": Node("b", 2, 2)},
            "Conflicting resource updates for b 1:1",
        ),
    ],
)
def test_specification_that_does_not_fit_the_devices_is_refused(
    spec: Json, nodes: dict[str, Node], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text):
        rewrite.rewrite(spec, nodes)


def test_two_devices_for_one_path_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="Conflicting device updates for /dev/xvda"):
        rewrite.plan_nodes([(DISK, Node("b", 1, 1)), (DISK, Node("b", 1, 2))])


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (DISK._replace(type=""), "invalid type for device"),
        (DISK._replace(id=""), "invalid ID and VM path for device"),
        (DISK._replace(container_path=""), "invalid container path for device"),
    ],
)
def test_device_that_says_too_little_is_refused(device: DeviceRequest, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        check(device)


# The environment

MAP = {"0000:1a:01.0": "0000:01:01.0", "0000:1b:02.0": "0000:01:02.0"}


def test_addresses_of_all_devices_are_translated_in_their_lists_and_their_infos() -> None:
    info = json.dumps({"0000:1a:01.0": {"id": "0000:1a:01.0"}, "0000:1b:02.0": {}})
    given = [
        "PCIDEVICE_X=0000:1a:01.0,0000:1b:02.0",
        f"PCIDEVICE_X_INFO={info}",
        "PCIDEVICE_Y=0000:1b:02.0",
        "OTHER=0000:1a:01.0",
        "PCIDEVICE_Z_INFO=0000:1a:01.0",
    ]
    assert environment.translate(given, MAP, "c") == [
        "PCIDEVICE_X=0000:01:01.0,0000:01:02.0",
        f"PCIDEVICE_X_INFO={info.replace('0000:1a:01.0', '0000:01:01.0').replace('0000:1b:02.0', '0000:01:02.0')}",
        "PCIDEVICE_Y=0000:01:02.0",
        "OTHER=0000:1a:01.0",
        "PCIDEVICE_Z_INFO=0000:1a:01.0",
    ]


def test_address_that_is_another_device_s_in_the_guest_is_translated_once() -> None:
    swapped = {"0000:01:00.0": "0000:02:00.0", "0000:02:00.0": "0000:01:00.0"}
    given = ["PCIDEVICE_X=0000:01:00.0,0000:02:00.0", "PCIDEVICE_X_INFO=0000:01:00.0 0000:02:00.0"]
    assert environment.translate(given, swapped, "c") == [
        "PCIDEVICE_X=0000:02:00.0,0000:01:00.0",
        "PCIDEVICE_X_INFO=0000:02:00.0 0000:01:00.0",
    ]


@pytest.mark.parametrize(
    ("entry", "addresses", "text"),
    [
        ("PCIDEVICE_X=nonsense", MAP, "Can't parse PCIDEVICE_X environment variable"),
        ("PCIDEVICE_X=0000:1a:01.0,", MAP, "Can't parse PCIDEVICE_X environment variable"),
        ("PCIDEVICE_X=0000:1a:01.0", {}, "No PCI mapping found for container c"),
        ("PCIDEVICE_X=0000:1c:00.0", MAP, "Unable to translate host PCI address 0000:1c:00.0"),
        ("PCIDEVICE_X", MAP, "Malformed OCI env entry"),
    ],
)
def test_address_that_cannot_be_translated_is_refused(
    entry: str, addresses: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text):
        environment.translate([entry], addresses, "c")


# Handlers


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (DISK, "block device at PCI path 02.0/00.0"),
        (DISK._replace(type="scsi", id="1:0"), "SCSI disk 1:0"),
        (DISK._replace(type="mmioblk", vm_path="/dev/vdq"), "block device /dev/vdq"),
        (DISK._replace(type="nvdimm", vm_path="/dev/pmem3"), "block device /dev/pmem3"),
    ],
)
def test_disk_is_waited_for_by_what_its_type_goes_by(device: DeviceRequest, text: str) -> None:
    matcher = disk.find_matcher(device)
    assert matcher is not None
    assert matcher.text == text


def test_disk_by_a_node_that_is_there_is_not_waited_for() -> None:
    assert disk.find_matcher(DISK._replace(type="nvdimm", vm_path="/dev/null")) is None


@pytest.mark.parametrize(
    ("device", "error"),
    [
        (DISK._replace(id="0000:02:00.0"), Malformed),
        (DISK._replace(type="scsi"), Malformed),
        (DISK._replace(type="mmioblk"), InvalidRequest),
        (DISK._replace(type="nvdimm", vm_path="pmem0"), Malformed),
    ],
)
def test_disk_with_a_wrong_address_is_refused(device: DeviceRequest, error: type[AgentError]) -> None:
    with pytest.raises(error):
        disk.find_matcher(device)


def test_node_has_its_kind_and_numbers_and_nothing_else_is_one() -> None:
    assert disk.read_node("/dev/null") == Node("c", 1, 3)
    with pytest.raises(InvalidRequest, match="Unknown device /dev's cgroup type"):
        disk.read_node("/dev")
    with pytest.raises(InvalidRequest, match=r"device /dev/none-such: .*ENOENT"):
        disk.read_node("/dev/none-such")


@pytest.mark.parametrize("kind", ["", "nonsense", "blk-ccw", "vfio-ap"])
def test_unknown_device_handler_is_refused_by_name(kind: str) -> None:
    with pytest.raises(NotSupported, match=f"^Failed to find the device handler {kind}: "):
        attach.find_handler(kind)


class NoHotplug:
    """For devices that are not waited for."""

    def __init__(self) -> None:
        self.on_event: list[object] = []


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A type `fake` whose ids tell what happens; gives what was undone."""
    undone: list[tuple[str, ...]] = []
    module = ModuleType("kata_agent.devices.fake")

    async def prepare(device: DeviceRequest, _devices: Devices, container_id: str) -> Handled:
        if device.id == "slow":
            await asyncio.Event().wait()
        if device.id == "bad":
            raise InvalidRequest("bad")
        address = ((f"0000:{device.id}:00.0", "0000:01:00.0"),)
        return Handled(Node("c", 1, 3), address, (container_id, device.id))

    async def release(undo: tuple[str, ...], _devices: Devices) -> None:
        undone.append(undo)
        if undo[1] == "0f":
            raise OSError(5, "no")

    vars(module).update(prepare=prepare, release=release)
    monkeypatch.setitem(sys.modules, "kata_agent.devices.fake", module)
    monkeypatch.setitem(attach.HANDLERS, "fake", "fake")
    return undone


async def no_module(name: str) -> None:
    raise AssertionError(f"module {name} is not needed")


@pytest.fixture
def devices() -> Devices:
    book = Book(NoHotplug(), lambda _user, _text: None)  # type: ignore[arg-type]  # a fake
    return Devices(book, Worker(2), Log(os.open("/dev/null", os.O_WRONLY)), no_module)


def fakes(*ids: str) -> tuple[list[DeviceRequest], Json]:
    requests = [DeviceRequest("fake", name, container_path=f"/dev/{name}") for name in ids]
    return requests, spec_of([node_of(f"/dev/{name}", "c", 5, index) for index, name in enumerate(ids)])


def test_all_devices_of_a_container_count_and_are_undone_in_reverse(
    devices: Devices, handler: list[tuple[str, ...]]
) -> None:
    requests, spec = fakes("0a", "0f", "0b")
    spec["process"] = {"env": ["PCIDEVICE_X=0000:0a:00.0,0000:0b:00.0"]}
    rewritten, attachment = run_async(devices.attach("c", requests, spec))
    assert rewritten["process"]["env"] == ["PCIDEVICE_X=0000:01:00.0,0000:01:00.0"]
    assert sorted(attachment.pci) == ["0000:0a:00.0", "0000:0b:00.0", "0000:0f:00.0"]
    assert attachment == Attachment(**json.loads(json.dumps(attachment._asdict())))
    run_async(devices.release("c", attachment))
    assert handler == [("c", "0b"), ("c", "0f"), ("c", "0a")]


def test_handled_devices_are_undone_when_another_fails_or_the_specification_does_not_fit(
    devices: Devices, handler: list[tuple[str, ...]]
) -> None:
    requests, spec = fakes("0a", "slow", "bad")
    with pytest.raises(InvalidRequest, match=r"^bad$"):
        run_async(devices.attach("c", requests, spec))
    assert handler == [("c", "0a")]
    requests, _ = fakes("0b")
    with pytest.raises(InvalidRequest, match="Missing devices"):
        run_async(devices.attach("c", requests, spec_of([])))
    assert handler == [("c", "0a"), ("c", "0b")]


def test_one_unknown_type_is_told_before_any_device_is_waited_for(
    devices: Devices, handler: list[tuple[str, ...]]
) -> None:
    requests, spec = fakes("slow")
    with pytest.raises(NotSupported, match="device handler nonsense"):
        run_async(devices.attach("c", [*requests, DeviceRequest("nonsense", "x", "", "/dev/x")], spec))
    assert handler == []


def test_host_address_that_would_be_two_in_the_guest_is_refused() -> None:
    known: dict[str, str] = {}
    attach.add_addresses(known, [("a", "1"), ("b", "2"), ("a", "1")])
    with pytest.raises(InvalidRequest, match="host PCI address a is 1 and 3"):
        attach.add_addresses(known, [("a", "3")])
