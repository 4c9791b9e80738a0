"""Processors and memory that were plugged into the guest: bringing them into use.

Owns: the files below /sys/devices/system, who is brought up first, and what is told when it is not enough. Must not
know: the wire. Follows: Kata's agent 3.21, "CPU and memory hotplug"; the kernel's cpu_hotplug.rst, memory-hotplug.rst
and sysfs-memory ABI. A number of processors is the total that is wanted. cgroup v2 lets containers have what has come:
`cpuset.cpus.effective` of a group without a list of its own grows with the guest, that of one with a list up to it.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.cgroups import cpulist
from kata_agent.errors import AgentError, NotSupported, TimedOut, describe, errno_text
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from kata_agent.devices.match import Found, Matcher, Missing, Prompt
    from kata_agent.log import Log
    from kata_agent.worker import Worker
    from kata_linux.uevent import Uevent

    Wait = Callable[[Matcher, float], Awaitable[object]]

VIRTIO = "/sys/bus/virtio/devices"
CPUS_DEADLINE_S = 5.0
# Kinds of virtio devices, as their `device` file has them: one that brings memory, and one that takes what is free.
MEMORY, BALLOON = "0x0018", "0x0005"


class System:
    """The files of processors and memory blocks."""

    def __init__(self, root: str = "/sys/devices/system") -> None:
        self.root = root

    def list_numbered(self, folder: str, prefix: str) -> list[int]:
        """The numbers of the entries of a folder that are called `prefix` and a number."""
        names = [
            name.removeprefix(prefix) for name in _list(f"{self.root}/{folder}") if name.startswith(prefix)
        ]
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def read(self, path: str) -> str:
        """A file's text, nothing when it is not there: cpu0 has no `online`, a kernel may have no memory blocks."""
        return _read(f"{self.root}/{path}")

    def write(self, path: str, text: str) -> None:
        """One write to a file that must be there."""
        path = f"{self.root}/{path}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"write {text} to: {os.strerror(error.errno or 0)}", path) from None
        finally:
            os.close(fd)


class Cpus(Record):
    """What the kernel says of its processors."""

    online: frozenset[int]
    offline: tuple[int, ...]
    """Those that are there and not in use."""
    possible: frozenset[int]
    """Those that it reserved room for when it booted."""


def observe_cpus(system: System) -> Cpus:
    """Look now."""
    numbers = system.list_numbered("cpu", "cpu")
    offline = tuple(number for number in numbers if system.read(f"cpu/cpu{number}/online") == "0")
    lists = (
        cpulist.parse(f"{name} processors", system.read(f"cpu/{name}")) for name in ("online", "possible")
    )
    online, possible = lists
    return Cpus(online, offline, possible)


def plan_cpus(cpus: Cpus, wanted: int, failures: Mapping[int, str]) -> tuple[int, ...]:
    """The processors to bring up for a total of `wanted`; not those that would not come. Pure."""
    missing = max(0, wanted - len(cpus.online))
    return tuple(number for number in cpus.offline if number not in failures)[:missing]


def bring_up_cpus(system: System, wanted: int, failures: dict[int, str]) -> Cpus:
    """Bring up what is there; a processor that does not come is noted in `failures`. Blocks."""
    while True:
        cpus = observe_cpus(system)
        planned = plan_cpus(cpus, wanted, failures)
        if not planned:
            return cpus
        for number in planned:
            try:
                system.write(f"cpu/cpu{number}/online", "1")
            except OSError as error:
                failures[number] = errno_text(error.errno or 0)


class SpareCpu:
    """A processor that is there, not in use, and not one that would not come: by it more are waited for."""

    group = "cpu"
    text = "a processor that is not in use"

    def __init__(self, system: System, failures: Mapping[int, str]) -> None:
        self._system = system
        self._failures = failures

    def look(self, sysfs: str) -> Found | Missing:
        """The first of them."""
        from kata_agent.devices.match import Found, Missing  # a call that finds enough does without

        for number in observe_cpus(self._system).offline:
            if number not in self._failures:
                return Found(f"{self._system.root}/cpu/cpu{number}", f"cpu{number}")
        return Missing("no processor has come")

    def concerns(self, event: Uevent) -> bool:
        """Events of processors."""
        return event.subsystem == "cpu"

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """ACPI tells by itself."""
        return ()


async def online_cpus(
    system: System, wanted: int, worker: Worker, wait: Wait, deadline_s: float = CPUS_DEADLINE_S
) -> None:
    """Have `wanted` processors in use, those included that come within the deadline. AgentError, TimedOut."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    failures: dict[int, str] = {}
    while True:
        cpus = await worker.run(partial(bring_up_cpus, system, wanted, failures))
        if len(cpus.online) >= wanted:
            return
        text = describe_shortage(cpus, wanted, failures)
        if wanted > len(cpus.possible):
            raise AgentError(text)  # none will ever come
        try:
            await wait(SpareCpu(system, failures), max(0.0, deadline - loop.time()))
        except TimedOut:
            raise TimedOut(f"{text}; no other came within {deadline_s:g} s") from None


def describe_shortage(cpus: Cpus, wanted: int, failures: Mapping[int, str]) -> str:
    """Why there are not enough. Pure."""
    return "; ".join(
        (
            f"failed to online {wanted} CPU(s): {cpulist.render(cpus.online)} are",
            *(f"cpu{number} did not come: {why}" for number, why in sorted(failures.items())),
            f"the kernel has room for {cpulist.render(cpus.possible)}",
        )
    )


def online_memory(system: System) -> None:
    """Bring all memory into use that is there, and let what comes later come by itself. Blocks. AgentError."""
    if system.read("memory/auto_online_blocks") == "offline":
        system.write("memory/auto_online_blocks", "online")
    failed = []
    for number in system.list_numbered("memory", "memory"):
        if system.read(f"memory/memory{number}/online") != "0":
            continue
        try:
            system.write(f"memory/memory{number}/online", "1")
        except OSError as error:
            failed.append(f"memory{number}: {errno_text(error.errno or 0)}")
    if failed:
        raise AgentError(f"failed to online memory: {'; '.join(failed)}")


def probe_memory(system: System, addresses: Iterable[int]) -> None:
    """Tell a kernel that cannot be notified where memory has come. Blocks. The first failure ends it."""
    for address in addresses:
        try:
            system.write("memory/probe", f"0x{address:X}")
        except FileNotFoundError:
            raise NotSupported(
                f"probe memory at 0x{address:X}: this kernel has no {system.root}/memory/probe, ACPI tells it of memory"
            ) from None


async def drive_memory(kind: str, load_module: Callable[[str], Awaitable[None]], log: Log) -> None:
    """Load the driver of virtio devices of a kind, if there are any. A failure is logged: the guest does without."""
    for alias in list_undriven(kind):
        try:
            await load_module(alias)
        except (AgentError, OSError) as error:
            log.warning("device", "no driver for a memory device", alias=alias, error=describe(error))


def list_undriven(kind: str, bus: str = VIRTIO) -> tuple[str, ...]:
    """Aliases of the modules that virtio devices of a kind need and have not; nobody else in a guest loads them."""
    found = set()
    for name in _list(bus):
        folder = f"{bus}/{name}"
        if _read(f"{folder}/device") == kind and not os.path.exists(f"{folder}/driver"):
            found.add(_read(f"{folder}/modalias"))
    return tuple(sorted(found - {""}))


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
