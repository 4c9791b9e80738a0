"""Where named devices are in sysfs, what is told of those that are not there, and which events matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_agent.devices import address, match, pci
from kata_agent.devices.match import Found, Missing
from kata_agent.errors import Malformed
from kata_linux.uevent import Uevent, parse_uevent
from kata_testing.sysfs import FakeSysfs


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def missing(matcher: match.Matcher, sysfs: FakeSysfs) -> Missing:
    seen = matcher.look(str(sysfs))
    assert isinstance(seen, Missing)
    return seen


@pytest.mark.parametrize(
    ("text", "slot"), [("0", "00.0"), ("02", "02.0"), ("1f.7", "1f.7"), ("1F", "1f.0"), ("3.0", "03.0")]
)
def test_slot_is_printed_with_its_function(text: str, slot: str) -> None:
    assert pci.parse_slot(text) == slot


@pytest.mark.parametrize(
    "text", ["", "20", "00.8", "02//03", "02/", "/02", "x", "0.", "1.2.3", "-1", "+1", " 1"]
)
def test_pci_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="PCI path"):
        pci.parse_path(text)


def test_pci_path_is_printed_with_functions() -> None:
    assert pci.format_path(pci.parse_path("3/4")) == "03.0/04.0"


@pytest.mark.parametrize(
    ("text", "printed"),
    [("0000:02:1f.3", "0000:02:1f.3"), ("0:0:1.2", "0000:00:01.2"), ("A:B:0C.0", "000a:0b:0c.0")],
)
def test_pci_address_is_printed_as_the_kernel_does(text: str, printed: str) -> None:
    assert pci.parse_address(text) == printed


@pytest.mark.parametrize(
    "text", ["", "02:1f.3", "0000:02:1f", "0000:02:1f.8", "10000:00:00.0", "0:100:0.0", "0:0:0.0:0"]
)
def test_pci_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="PCI address"):
        pci.parse_address(text)


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:0", "1:0:0", "-1:0", "1:99999", "٣:0"])
def test_scsi_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="SCSI address"):
        address.parse_scsi(text)


@pytest.mark.parametrize(
    ("text", "printed"), [("0.0.0", "0.0.0000"), ("0.3.ABCD", "0.3.abcd"), ("0.1.a", "0.1.000a")]
)
def test_ccw_address_is_printed_in_full(text: str, printed: str) -> None:
    assert address.parse_ccw(text) == printed


@pytest.mark.parametrize("text", ["", "0.0", "1.0.0", "0.4.0", "0.0.10000", "0.a.0", "0.0.0.1", "00.0.0"])
def test_ccw_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="CCW address"):
        address.parse_ccw(text)


@pytest.mark.parametrize("text", ["", "vda", "/dev/", "/dev/../etc", "/dev/a/b", "/dev/..", "/sys/vda"])
def test_node_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="Invalid device"):
        address.parse_node(text)


def test_disk_is_found_behind_bridges_and_never_its_partition(sysfs: FakeSysfs) -> None:
    outer = sysfs.add_bridge("0000:00:02.0", "0000:01")
    inner = sysfs.add_bridge("0000:01:03.0", "0000:02", outer)
    function = sysfs.add_function("0000:02:00.0", inner)
    sysfs.add_virtio_disk(function, "vda", "vda1", "vda2")
    found = match.PciBlock("02/03/00").look(str(sysfs))
    assert found == Found(f"{sysfs}/{function}/virtio3/block/vda", "vda", "/dev/vda", 253, 0)


def test_pci_path_is_searched_again_until_the_bus_of_each_bridge_and_of_the_device_is_there(
    sysfs: FakeSysfs,
) -> None:
    matcher = match.PciFunction("02/00")
    assert "there is no device 0000:00:02.0" in missing(matcher, sysfs).text
    bridge = sysfs.add_function("0000:00:02.0")
    assert "0000:00:02.0 is not a bridge to exactly one bus" in missing(matcher, sysfs).text
    (sysfs.root / bridge / "pci_bus/0000:01").mkdir(parents=True)
    assert "there is no device 0000:01:00.0" in missing(matcher, sysfs).text
    folder = sysfs.root / bridge / "0000:01:00.0"
    folder.mkdir()
    assert missing(matcher, sysfs).text == "slot 0000:01:00.0 present, not on its bus yet"
    on_bus = sysfs.root / "bus/pci/devices"
    on_bus.mkdir(parents=True)
    (on_bus / "0000:01:00.0").symlink_to(folder)
    assert matcher.look(str(sysfs)) == Found(f"{sysfs}/{bridge}/0000:01:00.0", "0000:01:00.0")


def test_disk_that_is_not_ready_is_told_with_the_state_of_its_slot(sysfs: FakeSysfs) -> None:
    matcher = match.PciBlock("05")
    function = sysfs.add_function("0000:00:05.0", alias="pci:v1AF4")
    seen = missing(matcher, sysfs)
    assert seen == Missing("slot 0000:00:05.0 present, no driver bound", (f"{sysfs}/{function}",))
    sysfs.bind(function, "virtio-pci")
    assert missing(matcher, sysfs).text == "slot 0000:00:05.0 present, driver virtio-pci bound, no disk of it"
    (sysfs.root / function / "virtio3").mkdir()
    seen = missing(matcher, sysfs)
    assert seen.text == "slot 0000:00:05.0 present with virtio3, which has no driver bound"
    assert seen.undriven == (f"{sysfs}/{function}/virtio3",)
    sysfs.bind(f"{function}/virtio3", "virtio_net")
    assert missing(matcher, sysfs).text == (
        "slot 0000:00:05.0 present with virtio3, driver virtio_net bound, no disk of it"
    )


def test_nvme_disk_is_a_disk_of_its_function(sysfs: FakeSysfs) -> None:
    function = sysfs.add_function("0000:00:06.0", driver="nvme")
    sysfs.write(f"{function}/nvme/nvme0/nvme0n1/uevent", "MAJOR=259\nMINOR=0\nDEVNAME=nvme0n1\n")
    sysfs.write(f"{function}/nvme/nvme0/hwmon1/uevent", "")
    found = match.PciBlock("06").look(str(sysfs))
    assert isinstance(found, Found)
    assert (found.node, found.major) == ("/dev/nvme0n1", 259)


def test_scsi_disk_is_found_by_target_and_unit_on_the_first_host_that_has_it(sysfs: FakeSysfs) -> None:
    matcher = match.ScsiDisk("1:2")
    assert missing(matcher, sysfs).text == "there is no SCSI host"
    sysfs.add_scsi_host(0)
    sysfs.add_scsi_unit("0:0:1:0")
    sysfs.add_scsi_unit("0:0:12:2")
    assert missing(matcher, sysfs).text == "host0 present, with the units 0:0:12:2, 0:0:1:0"
    later = sysfs.add_scsi_unit("10:0:1:2")
    first = sysfs.add_scsi_unit("2:0:1:2", driver="")
    assert missing(matcher, sysfs).text == "unit 2:0:1:2 present, no driver bound"
    sysfs.add_disk(later, "sdz", number="8:1")
    sysfs.bind(first, "sd")
    assert missing(matcher, sysfs).text == "unit 2:0:1:2 present, driver sd bound, no disk of it"
    sysfs.add_disk(first, "sdb", "sdb1", number="8:16")
    found = matcher.look(str(sysfs))
    assert isinstance(found, Found)
    assert (found.node, found.major, found.minor) == ("/dev/sdb", 8, 16)


def test_scsi_host_without_its_driver_is_what_stands_in_the_way(sysfs: FakeSysfs) -> None:
    for name, kind in (("virtio1", "0x0001"), ("virtio2", "0x0008")):
        sysfs.write(f"bus/virtio/devices/{name}/device", f"{kind}\n")
    assert missing(match.ScsiDisk("0:0"), sysfs).undriven == (f"{sysfs}/bus/virtio/devices/virtio2",)


def test_scsi_hosts_are_asked_for_the_unit_and_late_the_pci_bus_too(sysfs: FakeSysfs) -> None:
    sysfs.add_scsi_host(0)
    sysfs.add_scsi_host(1)
    matcher = match.ScsiDisk("1:2")
    early = [(prompt.path, prompt.data) for prompt in matcher.prompts(str(sysfs), late=False)]
    assert early == [(f"{sysfs}/class/scsi_host/host{host}/scan", "0 1 2") for host in (0, 1)]
    assert matcher.prompts(str(sysfs), late=True)[-1] == match.Prompt(f"{sysfs}/bus/pci/rescan", "1")
    assert match.PciBlock("02").prompts(str(sysfs), late=False) == ()


def test_disk_by_name_is_found_wherever_it_is(sysfs: FakeSysfs) -> None:
    matcher = match.NamedBlock("/dev/vdb")
    sysfs.add_disk("devices/platform/a000.virtio_mmio/virtio0", "vda")
    assert missing(matcher, sysfs).text == "the block devices there are: vda"
    sysfs.add_disk("devices/platform/b000.virtio_mmio/virtio1", "vdb", number="254:16")
    found = matcher.look(str(sysfs))
    assert isinstance(found, Found)
    assert (found.node, found.minor) == ("/dev/vdb", 16)


def test_disk_has_grown_when_its_size_says_so(sysfs: FakeSysfs) -> None:
    matcher = match.GrownDisk("254:0", 1 << 20)
    assert missing(matcher, sysfs).text == "it has 0 bytes"
    size = sysfs.write("dev/block/254:0/size", "2047\n")
    assert missing(matcher, sysfs).text == "it has 1048064 bytes"
    size.write_text("2048\n")
    assert matcher.look(str(sysfs)) == Found(str(size.parent), "254:0")


def test_persistent_memory_without_its_driver_is_what_stands_in_the_way(sysfs: FakeSysfs) -> None:
    for folder in ("bus/acpi/devices/ACPI0012:00", "bus/nd/devices/namespace0.0", "bus/nd/devices/region0"):
        sysfs.write(f"{folder}/modalias", "x")
    sysfs.bind("bus/nd/devices/region0", "nd_region")
    seen = missing(match.NamedBlock("/dev/pmem0"), sysfs)
    assert [folder.rpartition("/")[2] for folder in seen.undriven] == ["ACPI0012:00", "namespace0.0"]


def test_interface_is_found_on_the_function_or_its_virtio_device(sysfs: FakeSysfs) -> None:
    matcher = match.NetworkAt("07")
    function = sysfs.add_function("0000:00:07.0")
    assert missing(matcher, sysfs).text == "slot 0000:00:07.0 present, no driver bound"
    sysfs.bind(function, "virtio-pci")
    text = missing(matcher, sysfs).text
    assert text == "slot 0000:00:07.0 present, driver virtio-pci bound, it has no network interface"
    (sysfs.root / function / "virtio4").mkdir()
    sysfs.bind(f"{function}/virtio4", "virtio_pmem")
    text = missing(matcher, sysfs).text
    assert text.endswith(" present with virtio4, driver virtio_pmem bound, it has no network interface")
    sysfs.write(f"{function}/virtio4/net/eth1/uevent", "")
    found = matcher.look(str(sysfs))
    assert isinstance(found, Found)
    assert found.name == "eth1"


DISK = Uevent("add", "/devices/pci0000:00/0000:00:05.0/virtio3/block/vda", "block", {})
TTY = Uevent("add", "/devices/virtual/tty/tty9", "tty", {})
GONE = Uevent("remove", "/devices/pci0000:00/0000:00:05.0", "pci", {})


@pytest.mark.parametrize(
    ("matcher", "event", "concerns"),
    [
        (match.PciBlock("05"), DISK, True),
        (match.PciBlock("05"), TTY, False),
        (match.PciBlock("05"), GONE, False),
        (match.ScsiDisk("0:0"), DISK, True),
        (match.ScsiDisk("0:0"), TTY, False),
        (match.NamedBlock("/dev/vda"), DISK, True),
        (match.GrownDisk("254:0", 1), DISK, True),
        (match.GrownDisk("254:0", 1), TTY, False),
        (match.NamedBlock("/dev/vda"), TTY, False),
        (match.NetworkAt("05"), DISK, True),
        (match.NetworkAt("05"), TTY, False),
    ],
)
def test_events_of_other_devices_are_no_reason_to_look(
    matcher: match.Matcher, event: Uevent, *, concerns: bool
) -> None:
    assert matcher.concerns(event) is concerns


def test_uevent_is_read_from_its_items() -> None:
    data = b"add@/devices/a\0ACTION=add\0DEVPATH=/devices/a\0SUBSYSTEM=block\0DEVNAME=vda\0NAME=x=y\0\xff\0"
    event = parse_uevent(data, 7)
    assert event is not None
    assert (event.action, event.devpath, event.subsystem, event.time_ns) == ("add", "/devices/a", "block", 7)
    assert event.properties["NAME"] == "x=y"


@pytest.mark.parametrize("data", [b"", b"libudev\0\xfe\xed\xca\xfe", b"\0\0\0", b"no sign"])
def test_what_is_no_uevent_of_the_kernel_is_dropped(data: bytes) -> None:
    assert parse_uevent(data) is None
