"""Waiting for devices: found without an event, by an event, after lost ones, late, never; by many at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_agent.devices import match
from kata_agent.devices.hotplug import Arrival, Hotplug, check_node_state
from kata_agent.devices.match import Found
from kata_agent.errors import AgentError, TimedOut
from kata_agent.log import Log
from kata_agent.worker import Worker
from kata_linux.uevent import Uevent
from kata_testing.sysfs import FakeSysfs
from kata_testing.wire import run_async

LONG_S = 60.0


class FakeSocket:
    """The kernel's side is `send`."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.pipe()
        self._events: list[Uevent] = []
        self._lost = False
        self.closed = False

    def send(
        self,
        devpath: str,
        subsystem: str = "block",
        action: str = "add",
        *,
        time_ns: int = 1,
        lost: bool = False,
    ) -> None:
        self._events.append(Uevent(action, devpath, subsystem, {}, time_ns))
        self._lost = lost
        os.write(self._theirs, b".")

    def send_loss(self) -> None:
        self._lost = True
        os.write(self._theirs, b".")

    def fileno(self) -> int:
        return self._ours

    def read(self) -> tuple[list[Uevent], bool]:
        os.read(self._ours, 4096)
        events, lost, self._events, self._lost = self._events, self._lost, [], False
        return events, lost

    def close(self) -> None:
        self.closed = True
        os.close(self._ours)
        os.close(self._theirs)


class Machine:
    """A fake machine and who waits for its devices."""

    def __init__(
        self,
        sysfs: FakeSysfs,
        hotplug: Hotplug,
        socket: FakeSocket,
        loaded: list[str],
        group: asyncio.TaskGroup,
    ) -> None:
        self._group = group
        self.sysfs = sysfs
        self.hotplug = hotplug
        self.socket = socket
        self.loaded = loaded

    def plug_disk(self) -> str:
        function = self.sysfs.add_function("0000:00:05.0")
        return "/" + self.sysfs.add_virtio_disk(function, "no-vda", "no-vda1")

    def start_wait(self, matcher: match.Matcher) -> asyncio.Task[Arrival | TimedOut]:
        """Somebody waits; the result is what came of it."""

        async def wait() -> Arrival | TimedOut:
            try:
                return await self.hotplug.wait(matcher)
            except TimedOut as error:
                return error

        return self._group.create_task(wait())

    async def waited(self) -> None:
        """Every task that was started has come as far as it can."""
        for _ in range(3):
            await asyncio.sleep(0)
        assert list(self.hotplug.waiting())


async def name_of(task: asyncio.Task[Arrival | TimedOut]) -> str:
    outcome = await task
    assert isinstance(outcome, Arrival), outcome
    return outcome.found.name


@asynccontextmanager
async def machine(tmp_path: Path, timeout_s: float = LONG_S, refused: str = "") -> AsyncIterator[Machine]:
    sysfs, socket, loaded = FakeSysfs(tmp_path), FakeSocket(), []
    sysfs.write("bus/pci/rescan", "")

    async def load(alias: str) -> None:
        loaded.append(alias)
        if refused:
            raise AgentError(refused)

    async with asyncio.TaskGroup() as group:
        hotplug = Hotplug(
            Worker(4),
            Log(2),
            timeout_s,
            start=group.create_task,
            load_module=load,
            open_socket=lambda: socket,
            sysfs=str(tmp_path),
            check_node=lambda _found: "",
        )
        try:
            yield Machine(sysfs, hotplug, socket, loaded, group)
        finally:
            hotplug.close()


def test_device_that_is_there_needs_no_event_and_leaves_no_waiter(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path) as here:
            here.plug_disk()
            arrival = await here.hotplug.wait(match.PciBlock("05"), 0)
            assert arrival.found.node == "/dev/no-vda"
            assert arrival.event_ns == 0
            assert list(here.hotplug.waiting()) == []

    run_async(run())


def test_device_that_comes_is_found_by_its_event_and_keeps_the_event_s_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path) as here:
            task = here.start_wait(match.PciBlock("05"))
            await here.waited()
            devpath = here.plug_disk()
            here.socket.send(devpath, time_ns=12345)
            arrival = await task
            assert isinstance(arrival, Arrival)
            assert (arrival.found.name, arrival.event_ns) == ("no-vda", 12345)
            assert list(here.hotplug.waiting()) == []

    run_async(run())


def test_event_of_another_device_is_no_answer(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path, 0.2) as here:
            task = here.start_wait(match.PciBlock("06"))
            await here.waited()
            here.socket.send(here.plug_disk())
            assert "waiting for uevent block device at PCI path 06.0: there is no device" in str(await task)

    run_async(run())


def test_lost_events_are_answered_by_looking_for_everything(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path) as here:
            task = here.start_wait(match.PciBlock("05"))
            await here.waited()
            here.plug_disk()
            here.socket.send_loss()
            assert await name_of(task) == "no-vda"
            assert here.hotplug.lost == 1

    run_async(run())


def test_all_who_wait_for_one_device_share_a_waiter_and_get_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path) as here:
            tasks = [here.start_wait(match.PciBlock("05")) for _ in range(3)]
            given_up = here.start_wait(match.PciBlock("05.0"))
            await here.waited()
            assert len(list(here.hotplug.waiting())) == 1
            given_up.cancel()
            await asyncio.wait([given_up])
            here.socket.send(here.plug_disk())
            assert [await name_of(task) for task in tasks] == ["no-vda"] * 3
            assert list(here.hotplug.waiting()) == []

    run_async(run())


def test_timeout_names_the_device_and_the_nearest_state(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path, 0.05) as here:
            here.sysfs.add_function("0000:00:05.0")
            text = (
                "^Timeout after 0.05s waiting for uevent block device at PCI path 05.0: "
                "slot 0000:00:05.0 present, no driver bound$"
            )
            with pytest.raises(TimedOut, match=text):
                await here.hotplug.wait(match.PciBlock("05"))
            assert list(here.hotplug.waiting()) == []

    run_async(run())


def test_pci_bus_is_scanned_when_nothing_comes_and_what_that_finds_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path, 0.3) as here:
            rescan = here.sysfs.root / "bus/pci/rescan"
            with pytest.raises(TimedOut):
                await here.hotplug.wait(match.PciBlock("05"))
        # Written by a thread, for which the machine's end has waited; the deadline of who waits has not.
        assert rescan.read_text() == "1"

    run_async(run())


def test_scsi_hosts_are_asked_once_for_all_who_wait(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path) as here:
            scan = here.sysfs.add_scsi_host(0)
            tasks = [here.start_wait(match.ScsiDisk("1:0")) for _ in range(2)]
            await here.waited()
            unit = here.sysfs.add_scsi_unit("0:0:1:0")
            here.sysfs.add_disk(unit, "sda")
            here.socket.send("/devices/x/block/sda")
            assert [await name_of(task) for task in tasks] == ["sda"] * 2
        assert scan.read_text() == "0 1 0"

    run_async(run())


@pytest.mark.parametrize("refused", ["", "no such module"])
def test_device_without_driver_gets_its_module_once(tmp_path: Path, refused: str) -> None:
    async def run() -> None:
        async with machine(tmp_path, 0.2, refused) as here:
            here.sysfs.add_function("0000:00:05.0", alias="pci:v1")
            for _ in range(2):
                with pytest.raises(TimedOut):
                    await here.hotplug.wait(match.PciBlock("05"))
            assert here.loaded == ["pci:v1"]

    run_async(run())


def test_device_found_after_its_deadline_passed_unheard_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path, 0.05) as here:
            task = here.start_wait(match.PciBlock("05"))
            await here.waited()
            here.plug_disk()  # and no event comes
            assert await name_of(task) == "no-vda"

    run_async(run())


def test_waiting_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with machine(tmp_path) as here:
            task = here.start_wait(match.PciBlock("05"))
            await here.waited()
            task.cancel()
            await asyncio.wait([task])
            assert list(here.hotplug.waiting()) == []

    run_async(run())


def test_node_that_is_not_the_device_is_told(tmp_path: Path) -> None:
    null = os.stat("/dev/null").st_rdev
    assert check_node_state(Found("", "null", "/dev/null", os.major(null), os.minor(null))) == ""
    assert "is another device" in check_node_state(Found("", "null", "/dev/null", 8, 0))
    missing = str(tmp_path / "no-vda")
    assert f"vda present, but {missing}: ENOENT" in check_node_state(Found("", "no-vda", missing, 8, 0))
