"""Processors and memory that were plugged, against a fake sysfs: who is brought up, what is told."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_agent.devices import online
from kata_agent.devices.match import Found, Matcher, Missing
from kata_agent.devices.online import Cpus
from kata_agent.errors import AgentError, NotSupported, TimedOut
from kata_agent.worker import Worker
from kata_linux.uevent import Uevent
from kata_testing.wire import run_async

ROOM = frozenset(range(4))


class Kernel(online.System):
    """The files of a machine; what is switched on is in the list of those in use, unless it refuses."""

    def __init__(self, root: Path, online_list: str = "0", possible: str = "0-3") -> None:
        super().__init__(str(root))
        self.refusing: dict[str, int] = {}
        self.writes: list[tuple[str, str]] = []
        self.put("cpu/online", online_list)
        self.put("cpu/possible", possible)
        for folder in ("cpu0", "cpufreq", "cpu4"):  # the first cannot be switched, the last is not ready
            (root / "cpu" / folder).mkdir()

    def put(self, path: str, text: str) -> None:
        file = Path(self.root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def write(self, path: str, text: str) -> None:
        if path in self.refusing:
            raise OSError(self.refusing[path], "refused", path)
        super().write(path, text)
        self.writes.append((path, text))
        if path.startswith("cpu/cpu"):
            self.put("cpu/online", f"{self.read('cpu/online')},{path.split('/')[1].removeprefix('cpu')}")


class Plugger:
    """Who is waited by: each wait plugs the next; then nothing comes any more."""

    def __init__(self, *arrivals: Callable[[], None]) -> None:
        self.left = list(arrivals)
        self.timeouts: list[float] = []

    async def wait(self, matcher: Matcher, timeout_s: float) -> object:
        self.timeouts.append(timeout_s)
        if not self.left:
            raise TimedOut("nothing")
        self.left.pop(0)()
        found = matcher.look("")
        assert isinstance(found, Found), found
        return found


def online_cpus(kernel: Kernel, wanted: int, plugger: Plugger) -> None:
    async def body() -> None:
        await online.online_cpus(kernel, wanted, Worker(1), plugger.wait, deadline_s=1.0)

    run_async(body())


def test_only_processors_whose_file_says_0_are_brought_up_and_no_more_than_asked_for(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, "0,2")
    for number, text in ((1, "0"), (2, "1"), (3, "0"), (10, "0")):
        kernel.put(f"cpu/cpu{number}/online", text)
    cpus = online.observe_cpus(kernel)
    assert cpus == Cpus(frozenset({0, 2}), (1, 3, 10), ROOM)
    assert online.plan_cpus(cpus, 3, {}) == (1,)
    assert online.plan_cpus(cpus, 4, {}) == (1, 3)
    assert online.plan_cpus(cpus, 9, {}) == (1, 3, 10)
    assert online.plan_cpus(cpus, 4, {1: "would not come"}) == (3, 10)
    online_cpus(kernel, 3, Plugger())
    assert kernel.writes == [("cpu/cpu1/online", "1")]


def test_number_of_processors_is_a_total() -> None:
    cpus = Cpus(frozenset({0, 1}), (2, 3), ROOM)
    assert online.plan_cpus(cpus, 1, {}) == online.plan_cpus(cpus, 2, {}) == ()
    assert online.plan_cpus(cpus, 3, {}) == (2,)


def test_enough_processors_wait_for_nothing(tmp_path: Path) -> None:
    plugger = Plugger()
    online_cpus(Kernel(tmp_path, "0-1"), 2, plugger)
    assert plugger.timeouts == []


def test_processors_that_come_one_by_one_are_brought_up_within_one_deadline(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    plugger = Plugger(*(lambda n=n: kernel.put(f"cpu/cpu{n}/online", "0") for n in (1, 2)))  # type: ignore[misc]
    online_cpus(kernel, 3, plugger)
    assert kernel.read("cpu/online") == "0,1,2"
    assert 1.0 >= plugger.timeouts[0] >= plugger.timeouts[1] >= 0


def test_processors_that_do_not_come_are_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(TimedOut) as caught:
        online_cpus(Kernel(tmp_path), 2, Plugger())
    assert str(caught.value) == (
        "failed to online 2 CPU(s): 0 are; the kernel has room for 0-3; no other came within 1 s"
    )


def test_processor_that_would_not_come_is_named_and_another_is_taken(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    for number in (1, 2):
        kernel.put(f"cpu/cpu{number}/online", "0")
    kernel.refusing["cpu/cpu1/online"] = errno.EIO
    online_cpus(kernel, 2, Plugger())
    assert kernel.read("cpu/online") == "0,2"
    with pytest.raises(TimedOut, match="0,2 are; cpu1 did not come: EIO: Input/output error; the kernel"):
        online_cpus(kernel, 3, Plugger())


def test_more_processors_than_the_kernel_has_room_for_are_refused_at_once(tmp_path: Path) -> None:
    plugger = Plugger()
    with pytest.raises(AgentError, match=r"failed to online 5 CPU\(s\): 0 are; the kernel has room for 0-3$"):
        online_cpus(Kernel(tmp_path), 5, plugger)
    assert plugger.timeouts == []


def test_spare_processor_is_looked_for_again_by_events_of_processors(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    spare = online.SpareCpu(kernel, {1: "would not come"})
    assert spare.look("") == Missing("no processor has come")
    kernel.put("cpu/cpu1/online", "0")
    assert isinstance(spare.look(""), Missing)
    kernel.put("cpu/cpu2/online", "0")
    found = spare.look("")
    assert isinstance(found, Found)
    assert found.name == "cpu2"
    assert spare.concerns(Uevent("add", "/devices/system/cpu/cpu2", "cpu", {}, 0))
    assert not spare.concerns(Uevent("add", "/devices/x", "block", {}, 0))
    assert spare.prompts("", late=True) == ()


def test_memory_that_is_there_is_brought_up_and_what_comes_later_comes_by_itself(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.put("memory/auto_online_blocks", "offline")
    for number, text in ((0, "1"), (32, "0"), (33, "0")):
        kernel.put(f"memory/memory{number}/online", text)
    online.online_memory(kernel)
    assert kernel.writes == [
        ("memory/auto_online_blocks", "online"),
        ("memory/memory32/online", "1"),
        ("memory/memory33/online", "1"),
    ]
    kernel.writes.clear()
    kernel.put("memory/auto_online_blocks", "online_movable")
    kernel.put("memory/memory32/online", "0")
    kernel.refusing["memory/memory32/online"] = errno.EBUSY
    with pytest.raises(AgentError, match="failed to online memory: memory32: EBUSY: Device or resource busy"):
        online.online_memory(kernel)
    assert kernel.writes == []


def test_kernel_without_memory_blocks_has_nothing_to_bring_up(tmp_path: Path) -> None:
    online.online_memory(Kernel(tmp_path))


def test_addresses_of_memory_are_written_in_hexadecimal_up_to_the_first_failure(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    with pytest.raises(NotSupported, match=r"probe memory at 0xA: this kernel has no .*/memory/probe"):
        online.probe_memory(kernel, [10])
    kernel.put("memory/probe", "")
    online.probe_memory(kernel, [0x100000000, 0xABCDEF])
    assert kernel.writes == [("memory/probe", "0x100000000"), ("memory/probe", "0xABCDEF")]
    kernel.refusing["memory/probe"] = errno.EINVAL
    with pytest.raises(OSError, match="refused"):
        online.probe_memory(kernel, [1])


def test_memory_devices_without_a_driver_are_found_by_their_kind(tmp_path: Path) -> None:
    for name, kind, driven in (
        ("virtio0", "0x0002", False),
        ("virtio1", "0x0018", False),
        ("virtio2", "0x0018", True),
        ("virtio3", "0x0005", False),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "device").write_text(f"{kind}\n")
        (folder / "modalias").write_text(f"virtio:d0000{kind[2:]}v{name}\n")
        if driven:
            (folder / "driver").mkdir()
    assert online.list_undriven(online.MEMORY, str(tmp_path)) == ("virtio:d00000018vvirtio1",)
    assert online.list_undriven(online.BALLOON, str(tmp_path)) == ("virtio:d00000005vvirtio3",)
    assert online.list_undriven(online.MEMORY, str(tmp_path / "none")) == ()
