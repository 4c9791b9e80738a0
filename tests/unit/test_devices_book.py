"""The records of devices: one for each, its state, its users, its times; bounded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_agent.devices import book as books
from kata_agent.devices.book import Book
from kata_agent.devices.hotplug import Arrival
from kata_agent.devices.match import Found, Matcher, PciFunction
from kata_agent.errors import TimedOut
from kata_linux.uevent import Uevent
from kata_testing.wire import run_async


class FakeHotplug:
    """Gives arrivals, or the error that is set."""

    def __init__(self, root: Path) -> None:
        self.on_event: list[Callable[[Uevent], None]] = []
        self.root = root
        self.error: Exception | None = None
        self.name = "vda"

    async def wait(self, matcher: Matcher) -> Arrival:
        if self.error is not None:
            raise self.error
        folder = self.root / self.name
        folder.mkdir(exist_ok=True)
        found = Found(str(folder), self.name, f"/dev/{self.name}", 253, 0)
        return Arrival(matcher.text, "block", found, f"/devices/{self.name}", 5, 6, 7)

    def remove(self, name: str) -> None:
        for hear in self.on_event:
            hear(Uevent("remove", f"/devices/{name}", "block", {}))


@pytest.fixture
def hotplug(tmp_path: Path) -> FakeHotplug:
    return FakeHotplug(tmp_path)


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def book(hotplug: FakeHotplug, told: list[tuple[str, str]]) -> Book:
    return Book(hotplug, lambda user, text: told.append((user, text)))  # type: ignore[arg-type]  # a fake


def wait(book: Book, path: str = "02", user: str = "c1") -> None:
    run_async(book.wait("blk", PciFunction(path), user))


def states(book: Book) -> list[tuple[str, str]]:
    return [(entry.text, entry.state) for entry in book.entries()]


def test_two_users_of_a_device_have_one_record_which_ends_its_use_with_the_last(
    book: Book, told: list[tuple[str, str]]
) -> None:
    wait(book)
    wait(book, user="c2")
    book.note_mounted("blk", "PCI device 02.0", 9)
    (entry,) = book.entries()
    assert (entry.state, entry.mount_ns, entry.users) == ("mounted", 9, {"c1", "c2"})
    assert entry.mounted_ns > 0
    book.release("c1")
    assert states(book) == [("PCI device 02.0", "mounted")]
    book.release("c2")
    assert states(book) == [("PCI device 02.0", "ready")]
    assert told == [("c1", "PCI device 02.0: ready as /dev/vda")]


def test_device_that_is_pulled_is_gone_and_begins_anew_when_it_comes_back(
    book: Book, hotplug: FakeHotplug, told: list[tuple[str, str]]
) -> None:
    wait(book)
    hotplug.remove("vdb")
    assert states(book) == [("PCI device 02.0", "ready")]
    hotplug.remove("vda")
    assert states(book) == [("PCI device 02.0", "gone")]
    assert told[-1] == ("", "PCI device 02.0: gone while it was in use")
    wait(book, user="c2")
    (entry,) = book.entries()
    assert (entry.state, entry.users) == ("ready", {"c2"})


def test_device_whose_removal_nobody_heard_of_is_found_gone(book: Book, hotplug: FakeHotplug) -> None:
    wait(book)
    shutil.rmtree(hotplug.root / "vda")
    assert states(book) == [("PCI device 02.0", "gone")]


def test_another_device_at_the_same_address_is_another_record(book: Book, hotplug: FakeHotplug) -> None:
    wait(book)
    hotplug.name = "vdb"
    wait(book, user="c2")
    (entry,) = book.entries()
    assert entry.arrival is not None
    assert (entry.arrival.found.name, entry.users) == ("vdb", {"c2"})


def test_device_that_does_not_come_is_told_with_the_reason(
    book: Book, hotplug: FakeHotplug, told: list[tuple[str, str]]
) -> None:
    hotplug.error = TimedOut("Timeout after 3s")
    with pytest.raises(TimedOut):
        wait(book)
    (entry,) = book.entries()
    assert (entry.state, entry.reason) == ("failed", "Timeout after 3s")
    assert told == [("c1", "PCI device 02.0: Timeout after 3s")]


def test_oldest_record_without_a_use_is_forgotten(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "LIMIT", 2)
    for path in ("01", "02"):
        wait(book, path, user=path)
    book.release("02")
    wait(book, "03")
    assert [text for text, _ in states(book)] == ["PCI device 01.0", "PCI device 03.0"]


def test_driver_and_group_are_those_of_the_nearest_device_that_has_one(tmp_path: Path) -> None:
    disk = tmp_path / "pci/virtio3/block/vda"
    disk.mkdir(parents=True)
    for link, target in (
        ("pci/driver", "virtio-pci"),
        ("pci/virtio3/driver", "virtio_blk"),
        ("pci/iommu_group", "7"),
    ):
        (tmp_path / "targets" / target).mkdir(parents=True)
        (tmp_path / link).symlink_to(tmp_path / "targets" / target)
    assert books.find_driver(str(disk)) == "virtio_blk"
    assert books.find_group(str(disk)) == "7"
    assert books.find_group(str(tmp_path / "targets")) == ""
