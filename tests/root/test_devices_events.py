"""The kernel's own events: a device that comes and goes, and events that were lost because nobody read them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kata_agent.devices.book import Book
from kata_agent.devices.hotplug import Hotplug
from kata_agent.devices.match import NamedBlock
from kata_agent.log import Log
from kata_agent.worker import Worker
from kata_linux.uevent import UeventSocket
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires("root", "loop")

CONTROL = "/dev/loop-control"
ADD, REMOVE = 0x4C80, 0x4C81
NUMBER = 700 + os.getpid() % 200
DEADLINE_S = 60.0
# More than the socket's buffer holds; each takes a kilobyte or so of it.
MANY = 8000


@contextmanager
def loop_control() -> Iterator[int]:
    """The control device; the test's loop device is gone at the end."""
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        try:
            fcntl.ioctl(fd, REMOVE, NUMBER)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        os.close(fd)


async def fail_to_load(alias: str) -> None:
    raise AssertionError(alias)


def test_device_of_this_machine_is_found_by_its_event_and_its_going_is_heard_of() -> None:
    async def body(control: int) -> None:
        told: list[str] = []
        async with asyncio.TaskGroup() as group:
            hotplug = Hotplug(
                Worker(2),
                Log(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)),
                DEADLINE_S,
                start=group.create_task,
                load_module=fail_to_load,
                check_node=lambda _found: "",  # /dev may be a container's, without new nodes
                owns_guest=False,
            )
            gone = asyncio.Event()
            book = Book(hotplug, lambda _user, text: told.append(text))
            hotplug.on_event.append(lambda event: gone.set() if event.action == "remove" and told else None)
            waiting = group.create_task(book.wait("mmioblk", NamedBlock(f"/dev/loop{NUMBER}"), "c"))
            await asyncio.sleep(0)
            fcntl.ioctl(control, ADD, NUMBER)
            arrival = await waiting
            assert arrival.found.major == 7
            assert arrival.devpath == f"/devices/virtual/block/loop{NUMBER}"
            assert arrival.asked_ns < arrival.event_ns <= arrival.ready_ns
            fcntl.ioctl(control, REMOVE, NUMBER)
            async with asyncio.timeout(DEADLINE_S):
                while "gone" not in told[-1]:
                    gone.clear()
                    await gone.wait()
            hotplug.close()
        assert told == [
            f"block device /dev/loop{NUMBER}: ready as /dev/loop{NUMBER}",
            f"block device /dev/loop{NUMBER}: gone while it was in use",
        ]

    with loop_control() as control:
        run_async(body(control))


def test_events_that_nobody_read_are_known_to_be_lost_and_later_ones_are_heard() -> None:
    with loop_control() as control:
        fcntl.ioctl(control, ADD, NUMBER)
        path = f"/sys/block/loop{NUMBER}/uevent"
        socket = UeventSocket()
        try:
            with open(path, "w", encoding="ascii") as trigger:
                for _ in range(MANY):
                    os.pwrite(trigger.fileno(), b"change", 0)
            lost = False
            while select.select([socket], [], [], 0)[0]:
                lost = socket.read()[1] or lost
            assert lost
            with open(path, "w", encoding="ascii") as trigger:
                trigger.write("change")
            heard = False
            while not heard:  # other devices may have something to tell, too
                assert select.select([socket], [], [], DEADLINE_S)[0]
                events, lost = socket.read()
                assert not lost
                heard = any(event.properties.get("DEVNAME") == f"loop{NUMBER}" for event in events)
        finally:
            socket.close()
