"""VFIO against a fake bus that does as the kernel's: options, drivers, groups, windows, users."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_agent.devices import vfio
from kata_agent.devices.match import Found, Missing
from kata_agent.devices.pci_bus import Function, PciBus, Write, find_unassigned, plan_override, plan_restore
from kata_agent.devices.vfio import DRIVER, KERNEL, Functions, VfioGroup, Wanted
from kata_agent.errors import AgentError, InvalidRequest, Malformed, NotSupported, WrongState
from kata_agent.log import Log
from kata_linux.uevent import Uevent
from kata_testing.wire import run_async

GPU, SOUND, OTHER = "0000:01:00.0", "0000:01:00.1", "0000:02:00.0"
WINDOW = "0x00000000fd000000 0x00000000fdffffff 0x0000000000042208\n"
NOTHING = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"


class Bus(PciBus):
    """A bus whose files do what the kernel's do when they are written to."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.known: dict[str, str] = {}
        """Which driver knows a function; a module that is loaded brings its own."""
        self.writes: list[str] = []
        self.refuses_vfio = False
        (root / "bus/pci/drivers").mkdir(parents=True)

    def path(self, name: str) -> Path:
        return Path(self.root, name)

    def add(
        self, address: str, group: str = "", known: str = "", resource: str = WINDOW, kind: str = "0x038000"
    ) -> None:
        folder = self.path(f"devices/{address}")
        folder.mkdir(parents=True)
        (folder / "resource").write_text(resource)
        (folder / "config").write_bytes(registers())
        (folder / "class").write_text(f"{kind}\n")
        (folder / "modalias").write_text(f"pci:{address}\n")
        self.known[address] = known
        if group:
            devices = Path(self.sysfs, "kernel/iommu_groups", group, "devices")
            devices.mkdir(parents=True, exist_ok=True)
            (devices / address).touch()
            (folder / "iommu_group").symlink_to(devices.parent)
        if known:
            self.bind(address, known)

    def bind(self, address: str, driver: str) -> None:
        self.path(f"drivers/{driver}").mkdir(exist_ok=True)
        self.path(f"devices/{address}/driver").symlink_to(self.path(f"drivers/{driver}"))

    def write(self, write: Write) -> None:
        self.writes.append(f"{write.path}={write.data.strip()}")
        parts = write.path.split("/")
        if write.path == "drivers_probe":
            self._probe(write.data)
        elif not self.path("/".join(parts[:2])).exists():
            raise FileNotFoundError(errno.ENOENT, "write", write.path)
        elif parts[-1] == "driver_override":
            self.path(write.path).write_text(write.data.strip())
        elif parts[-1] == "unbind":
            self.path(f"{parts[0]}/{parts[1]}/driver").unlink()
        else:
            assert parts[-1] == "rescan", write

    def _probe(self, address: str) -> None:
        override = self.path(f"devices/{address}/driver_override")
        wanted = override.read_text() if override.exists() else ""
        driver = wanted or self.known[address]
        if (
            driver
            and self.path(f"drivers/{driver}").exists()
            and not (driver == DRIVER and self.refuses_vfio)
        ):
            self.bind(address, driver)


class Guest:
    """The bus, and who hands out its functions."""

    def __init__(self, root: Path) -> None:
        self.bus = Bus(root)
        self.loaded: list[str] = []
        self.unknown: set[str] = set()
        self.functions = Functions(self.bus, self.run, self.load, Log())

    async def run(self, function: Callable[[], None]) -> None:
        function()

    async def load(self, module: str) -> None:
        self.loaded.append(module)
        if module in self.unknown:
            raise AgentError(f"load_kernel_module {module}: there is none")
        if module == DRIVER:
            self.bus.path(f"drivers/{DRIVER}").mkdir()

    def driver(self, address: str) -> str:
        return self.bus.observe(address).driver

    def take(self, kind: str, *addresses: str, user: str = "c") -> str:
        async def body() -> None:
            found.append(await self.functions.take(kind, addresses, user))

        found: list[str] = []
        run_async(body())
        return found[0]

    def give_back(self, *addresses: str, user: str = "c") -> None:
        run_async(self.functions.give_back(addresses, user))


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_option_is_the_host_s_address_and_the_guest_s_path() -> None:
    assert vfio.parse_option("0000:65:00.0=02/03") == Wanted("0000:65:00.0", "02/03")
    assert vfio.parse_option("0:65:0.1=2") == Wanted("0000:65:00.1", "2")


@pytest.mark.parametrize(
    "text", ["", "0000:65:00.0", "0000:65:00.0=", "=02/03", "65:00.0=02", "0000:65:00.0=02=03", "x=y"]
)
def test_option_that_is_neither_is_refused_whole(text: str) -> None:
    with pytest.raises(
        Malformed, match=f"Malformed VFIO PCI option '{text}': .* one like 0000:65:00.0=02/00"
    ):
        vfio.parse_option(text)


def test_override_unbinds_a_function_bound_elsewhere_and_probes() -> None:
    assert plan_override(Function(GPU, "bochs-drm", "5", ""), DRIVER) == (
        Write(f"devices/{GPU}/driver_override", "vfio-pci"),
        Write(f"devices/{GPU}/driver/unbind", GPU),
        Write("drivers_probe", GPU),
    )
    assert plan_override(Function(GPU, "", "5", ""), DRIVER)[1:] == (Write("drivers_probe", GPU),)


def test_override_of_a_bound_function_changes_nothing_else() -> None:
    bound = Function(GPU, DRIVER, "5", "")
    assert plan_override(bound, DRIVER) == (Write(f"devices/{GPU}/driver_override", "vfio-pci"),)
    assert plan_restore(Function(GPU, "other", "5", ""), DRIVER) == (
        Write(f"devices/{GPU}/driver_override", "\n"),
    )


def registers(*values: int) -> bytes:
    """The first 64 bytes of a function's configuration."""
    bars = b"".join(value.to_bytes(4, "little") for value in (*values, *[0] * (6 - len(values))))
    return bytes(16) + bars + bytes(24)


def test_windows_without_an_address_are_named_with_their_size() -> None:
    unset = "0x0000000000000000 0x0000000000ffffff 0x0000000020042208\n"
    ports = "0x0000000000000000 0x00000000000000ff 0x0000000020040101\n"
    rom = "0x0000000000000000 0x000000000000ffff 0x0000000020046200\n"
    none = registers()
    assert find_unassigned(WINDOW + NOTHING * 5 + rom, none) == ()
    assert find_unassigned(ports + WINDOW, none) == ()
    assert find_unassigned(NOTHING + unset + NOTHING, none) == ("BAR 1 of 16384 KiB",)


def test_window_that_the_kernel_has_forgotten_is_known_by_its_register() -> None:
    small = "0x00000000fde00000 0x00000000fde00fff 0x0000000000040200\n"
    ports = "0x0000000000001000 0x00000000000010ff 0x0000000000040101\n"
    found = small + ports + NOTHING * 11
    assert find_unassigned(found, registers(0xFDE00000, 0x1001, 0xC, 0)) == ("BAR 2",)
    assert find_unassigned(found, registers(0xFDE00000, 0x1001, 0xC, 0x38)) == ("BAR 2",)  # a stale address
    assert find_unassigned(found, registers(0xFDE00000, 0x1001, 0, 0x8)) == ("BAR 3",)
    assert find_unassigned(NOTHING * 6, registers(1, 0)) == ()  # ports
    wide = "0x0000003800000000 0x00000038000fffff 0x000000000014220c\n"
    assert find_unassigned(wide + NOTHING * 5, registers(0xC, 0x38)) == ()


def test_function_goes_to_vfio_and_back_to_the_driver_that_it_had(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    guest.bus.add(SOUND, "5")
    assert guest.take(DRIVER, GPU, SOUND) == "5"
    assert [guest.driver(address) for address in (GPU, SOUND)] == [DRIVER, DRIVER]
    assert guest.loaded == ["vfio-pci", "vfio_iommu_type1"]
    assert (
        guest.bus.writes[0] == f"devices/{GPU}/rescan=1"
    )  # before anything else: the bus may not be done with it
    guest.give_back(GPU, SOUND)
    assert [guest.driver(address) for address in (GPU, SOUND)] == ["nvidia", ""]
    assert guest.bus.path(f"devices/{GPU}/driver_override").read_text() == ""


def test_last_of_several_users_gives_back(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    for user in ("a", "b"):
        assert guest.take(DRIVER, GPU, user=user) == "5"
    guest.give_back(GPU, user="a")
    assert guest.driver(GPU) == DRIVER
    guest.give_back(GPU, user="b")
    assert guest.driver(GPU) == "nvidia"


def test_users_of_before_a_restart_count(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    guest.take(DRIVER, GPU, user="a")
    later = Functions(guest.bus, guest.run, guest.load, Log())
    for user in ("a", "b"):
        later.adopt(DRIVER, (GPU,), user)
    run_async(later.give_back((GPU,), "a"))
    assert guest.driver(GPU) == DRIVER
    run_async(later.give_back((GPU,), "b"))
    assert guest.driver(GPU) == "nvidia"


def test_one_function_is_not_used_in_two_ways(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    guest.take(DRIVER, GPU, user="a")
    with pytest.raises(
        WrongState, match=f"PCI device {GPU} is used as vfio-pci by a: it cannot be vfio-pci-gk"
    ):
        guest.take(KERNEL, GPU, user="b")
    guest.give_back(GPU, user="a")
    assert guest.take(KERNEL, GPU, user="b") == ""


def test_function_for_the_guest_s_kernel_keeps_its_driver_or_gets_its_module(guest: Guest) -> None:
    guest.bus.add(GPU, known="nvidia")
    guest.bus.add(OTHER)
    assert guest.take(KERNEL, GPU, OTHER) == ""
    assert guest.driver(GPU) == "nvidia"
    assert guest.loaded == [f"pci:{OTHER}"]
    guest.unknown.add(f"pci:{OTHER}")
    assert guest.take(KERNEL, OTHER) == ""  # what it is good for without a driver is the container's affair


def test_vfio_that_cannot_be_loaded_is_an_error(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    guest.unknown.add("vfio_iommu_type1")
    with pytest.raises(AgentError, match="load_kernel_module vfio_iommu_type1"):
        guest.take(DRIVER, GPU)
    assert guest.driver(GPU) == "nvidia"


def test_function_that_an_earlier_agent_gave_to_vfio_is_the_kernel_s_again(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known=DRIVER)
    guest.bus.known[GPU] = "nvidia"
    guest.bus.path("drivers/nvidia").mkdir()
    guest.take(KERNEL, GPU)
    assert guest.driver(GPU) == "nvidia"


def test_function_without_a_group_is_refused_with_what_to_do(guest: Guest) -> None:
    guest.bus.add(GPU, known="nvidia")
    with pytest.raises(NotSupported, match=f"{GPU} has no IOMMU group: .*intel_iommu=on"):
        guest.take(DRIVER, GPU)
    assert guest.driver(GPU) == "nvidia"


def test_group_that_is_no_number_is_refused(guest: Guest) -> None:
    guest.bus.add(GPU, "five")
    with pytest.raises(InvalidRequest, match="IOMMU group 'five' is no number"):
        guest.take(DRIVER, GPU)


def test_functions_of_two_groups_are_refused_and_given_back(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    guest.bus.add(OTHER, "6")
    with pytest.raises(
        InvalidRequest, match=f"one VFIO device is one IOMMU group: {GPU} is in 5, {OTHER} is in 6"
    ):
        guest.take(DRIVER, GPU, OTHER)
    assert guest.driver(GPU) == "nvidia"


def test_group_that_the_guest_itself_uses_is_refused_by_driver(guest: Guest) -> None:
    guest.bus.add(GPU, "5")
    guest.bus.add(SOUND, "5", known="snd")
    with pytest.raises(InvalidRequest, match=f"IOMMU group 5 also has {SOUND}, which driver snd uses"):
        guest.take(DRIVER, GPU)
    assert guest.driver(GPU) == ""


def test_bridge_in_the_group_may_keep_its_driver(guest: Guest) -> None:
    guest.bus.add(GPU, "5")
    guest.bus.add("0000:00:02.0", "5", known="pcieport", kind="0x060400")
    assert guest.take(DRIVER, GPU) == "5"


def test_driver_that_does_not_take_the_function_is_told(guest: Guest) -> None:
    guest.bus.add(GPU, "5", known="nvidia")
    guest.bus.refuses_vfio = True
    with pytest.raises(AgentError, match=f"PCI device {GPU}: vfio-pci did not take it, no driver has it"):
        guest.take(DRIVER, GPU)
    guest.bus.refuses_vfio = False
    assert guest.take(DRIVER, GPU) == "5"  # nothing is left of the first


def test_function_without_room_is_told_at_once(guest: Guest) -> None:
    guest.bus.add(GPU, "5", resource="0x0 0xffffff 0x20042208\n")
    with pytest.raises(AgentError, match=f"PCI device {GPU}: no room for BAR 0 of 16384 KiB: give the port"):
        guest.take(KERNEL, GPU)


def test_function_that_was_unplugged_is_given_back_without_complaint(guest: Guest) -> None:
    guest.bus.add(GPU, "5")
    guest.take(DRIVER, GPU)
    guest.bus.path(f"devices/{GPU}").rename(guest.bus.path("gone"))
    guest.give_back(GPU)


def test_group_is_waited_for_by_its_node(tmp_path: Path) -> None:
    group = VfioGroup("5")
    assert group.look(str(tmp_path)) == Missing("the VFIO groups there are: none")
    folder = tmp_path / "class/vfio/5"
    folder.mkdir(parents=True)
    (folder / "uevent").write_text("MAJOR=244\nMINOR=0\nDEVNAME=vfio/5\n")
    assert group.look(str(tmp_path)) == Found(str(folder), "5", "/dev/vfio/5", 244, 0)
    assert VfioGroup("6").look(str(tmp_path)) == Missing("the VFIO groups there are: 5")
    assert group.concerns(Uevent("add", "/devices/virtual/vfio/5", "vfio", {}, 0))
    assert not group.concerns(Uevent("add", "/devices/x", "block", {}, 0))


def test_group_link_in_sysfs_that_is_a_folder_is_an_error(guest: Guest) -> None:
    guest.bus.add(GPU)
    os.mkdir(guest.bus.path(f"devices/{GPU}/iommu_group"))
    with pytest.raises(OSError, match="Invalid argument"):
        guest.take(DRIVER, GPU)


def test_what_a_file_of_the_bus_refuses_is_told_with_file_and_text(tmp_path: Path) -> None:
    (tmp_path / "bus/pci").mkdir(parents=True)
    (tmp_path / "bus/pci/drivers_probe").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"write '{GPU}' to: No space left on device"):
        PciBus(str(tmp_path)).write(Write("drivers_probe", GPU))
