"""What `kata-agent-ctl devices` prints, and plugging's words to QEMU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, Message
from qemu.qmp.models import ErrorResponse

from kata_host.cli.commands.devices import _row, format_span
from kata_host.vm.base import VmError
from kata_host.vm.plug import Monitor, Plugged, is_gone
from kata_protocols.gen import sandbox_pb2 as pb
from kata_testing.wire import run_async

PORTS = [
    {
        "devices": [
            {"slot": 1, "qdev_id": "vga"},
            {"slot": 2, "qdev_id": "rp0", "pci_bridge": {"devices": [{"slot": 0}]}},
            {"slot": 10, "qdev_id": "rp1", "pci_bridge": {}},
        ]
    }
]


class FakeClient:
    """QEMU's side: answers what is asked most, refuses the devices it is told to."""

    def __init__(self, refused: str = "") -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refused = refused
        self.events: list[dict[str, Any]] = []
        self.answers: dict[str, object] = {}

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> object:
        given = arguments or {}
        self.asked.append((command, given))
        if given.get("driver") == self.refused:
            answer = {"error": {"desc": "no such thing", "class": "GenericError"}}
            raise ExecuteError(ErrorResponse(answer), Message(), Message(answer))
        return self.answers.get(command, PORTS if command == "query-pci" else [])

    def listener(self, _name: str) -> AbstractContextManager[Any]:
        async def follow() -> Any:
            for event in self.events:
                yield event

        return nullcontext(follow())


def monitor(client: FakeClient) -> Monitor:
    return Monitor(client)  # type: ignore[arg-type]  # a fake


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(512))
    return path


def test_disk_comes_on_an_empty_root_port_and_its_address_is_that_port_s_slot(image: Path) -> None:
    client = FakeClient()
    plugged = run_async(monitor(client).plug_disk("hot", image, read_only=True))
    assert plugged.address == "0a/00"
    file = {"driver": "file", "filename": str(image)}
    assert client.asked == [
        ("blockdev-add", {"driver": "raw", "node-name": "hot-node", "read-only": True, "file": file}),
        ("query-pci", {}),
        (
            "device_add",
            {"driver": "virtio-blk-pci", "id": "hot", "bus": "rp1", "drive": "hot-node", "serial": "hot"},
        ),
    ]


def test_disk_that_is_refused_leaves_no_node_behind(image: Path) -> None:
    client = FakeClient(refused="virtio-blk-pci")
    with pytest.raises(VmError, match="qemu refused device_add"):
        run_async(monitor(client).plug_disk("hot", image))
    assert client.asked[-1] == ("blockdev-del", {"node-name": "hot-node"})


def test_a_file_without_a_byte_is_no_disk_and_qemu_is_not_asked(image: Path) -> None:
    client = FakeClient()
    image.write_bytes(b"")
    with pytest.raises(VmError, match=f"{image}: is empty; a disk has a size"):
        run_async(monitor(client).plug_disk("hot", image))
    assert client.asked == []


def test_unplugging_waits_for_the_guest_and_then_closes_what_was_behind(tmp_path: Path) -> None:
    client = FakeClient()
    client.events = [gone("other"), gone("hot"), gone("later")]
    run_async(monitor(client).unplug(Plugged("hot", "0a/00", (("blockdev-del", "node-name", "hot-node"),))))
    assert [command for command, _ in client.asked] == ["device_del", "blockdev-del"]


@pytest.mark.parametrize(
    ("event", "info"),
    [("DEVICE_UNPLUG_GUEST_ERROR", ""), ("ACPI_DEVICE_OST", r" \(ACPI status 0x82\)")],
)
def test_device_that_the_guest_keeps_is_told_at_once_and_what_it_stands_on_stays(
    event: str, info: str
) -> None:
    data: dict[str, Any] = {"device": "dimm"}
    refusal = {"event": event, "data": {"info": {**data, "source": 3, "status": 0x82}} if info else data}
    client = FakeClient()
    client.events = [
        ost("dimm", 0x84),
        ost("dimm", 0x82, source=1),
        ost("other", 0x82),
        refusal,
        gone("dimm"),
    ]
    device = Plugged("dimm", "", (("object-del", "id", "dimm-backend"),))
    with pytest.raises(VmError, match=rf"the guest keeps dimm: it is in use, .*{info}$"):
        run_async(monitor(client).unplug(device))
    assert [command for command, _ in client.asked] == ["device_del"]


def gone(device: str) -> dict[str, Any]:
    return {"event": "DEVICE_DELETED", "data": {"device": device, "path": f"/machine/peripheral/{device}"}}


def ost(device: str, status: int, source: int = 3) -> dict[str, Any]:
    return {
        "event": "ACPI_DEVICE_OST",
        "data": {"info": {"device": device, "source": source, "status": status}},
    }


def test_processor_has_gone_with_its_interrupt_controller() -> None:
    data = {"path": "/machine/peripheral/more-1-0-0/lapic"}
    assert is_gone({"event": "DEVICE_DELETED", "data": data}, "more-1-0-0")
    assert not is_gone({"event": "DEVICE_DELETED", "data": data}, "more-1-0")


@pytest.mark.parametrize("kvm", [False, True])
def test_processor_is_pulled_under_kvm_only(*, kvm: bool) -> None:
    client = FakeClient()
    device = {"name": "more-1-0-0", "type": "child<max-x86_64-cpu>"}
    client.answers = {"qom-list": [device], "query-kvm": {"enabled": kvm}}
    recalled = monitor(client).recall("more-1-0-0")
    if kvm:
        assert run_async(recalled) == Plugged("more-1-0-0", "")
    else:
        with pytest.raises(VmError, match="more-1-0-0 stays: without KVM, QEMU does not outlive"):
            run_async(recalled)


def test_full_machine_is_told(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PORTS[0]["devices"][2], "pci_bridge", {"devices": [{}]})
    client = FakeClient()
    with pytest.raises(VmError, match="every root port of the machine has a device"):
        run_async(monitor(client).plug_disk("hot", image))
    assert client.asked[-1][0] == "blockdev-del"


@pytest.mark.parametrize(
    ("start", "end", "text"), [(0, 5, "-"), (5, 0, "-"), (1_000_000, 3_500_000, "2.5 ms"), (9, 5, "0.0 ms")]
)
def test_span_of_two_times(start: int, end: int, text: str) -> None:
    assert format_span(start, end) == text


def test_row_shows_what_is_known() -> None:
    device = pb.Device(
        handler="blk", address="block device at PCI path 02.0", state="waiting", containers=["", "c1"]
    )
    assert _row(device) == (
        "blk: block device at PCI path 02.0",
        "-",
        "-",
        "-",
        "waiting",
        "-",
        "-",
        "-",
        "sandbox c1",
    )
