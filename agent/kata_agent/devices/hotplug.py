"""Waiting for devices: `found = await agent.hotplug.wait(match.PciBlock("02/00"))`.

Owns: the subscription to the kernel's events, who waits for what, deadlines, and what is done when nothing comes. Must
not know: what a device is for. A matcher (`match.py`) names a device and finds it in sysfs; `wait` gives its `Arrival`,
whose `found` has folder, name, node and numbers, or raises `TimedOut` with the nearest thing that is there.

In this order: subscribe, look, ask the kernel to look, wait. Events only say when to look again, so none of them is
needed: lost ones (ENOBUFS) are answered by looking for everything that is waited for. All who wait for one device share
one look at it. When a third of the time has passed the PCI bus is scanned again. A device without a driver gets the
module that its alias names, once. The socket opens with the first wait and stays, so that arrivals have their time.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.devices.match import Found, Missing
from kata_agent.errors import AgentError, TimedOut, describe
from kata_linux.record import Record
from kata_linux.uevent import UeventSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from kata_agent.devices.match import Matcher, Prompt
    from kata_agent.log import Log
    from kata_agent.worker import Worker
    from kata_linux.uevent import Uevent

_KEPT_TIMES = 1024
_LATE_PART = 1 / 3
_FIRST, _LATE = "first", "late"


class Arrival(Record):
    """A device that somebody has waited for. `devpath` is its folder below /sys, as events name it. Times are
    CLOCK_MONOTONIC in nanoseconds: when the kernel's event about it was read (one that was there before anybody
    listened: when its node was made, 0 without a node), when the wait began, when it was ready."""

    text: str
    group: str
    found: Found
    devpath: str
    event_ns: int
    asked_ns: int
    ready_ns: int


class Waiter:
    """One expected device, and everybody who waits for it."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.futures: set[asyncio.Future[Found]] = set()
        self.missing = Missing("")
        self.prompted: set[str] = set()


class Hotplug:
    """One per agent."""

    def __init__(
        self,
        worker: Worker,
        log: Log,
        timeout_s: float,
        *,
        start: Callable[[Coroutine[object, object, None]], object],
        load_module: Callable[[str], Awaitable[None]],
        open_socket: Callable[[], UeventSocket] = UeventSocket,
        sysfs: str = "/sys",
        check_node: Callable[[Found], str] | None = None,
        owns_guest: bool = True,
    ) -> None:
        """`start` makes a task of what must not be waited for; `load_module` loads by alias or raises.

        A machine that is not the agent's own (`owns_guest` false) is looked at, and never told to do anything.
        """
        self.timeout_s = timeout_s
        self.sysfs = sysfs
        self.lost = 0
        """How often events were lost."""
        self.on_event: list[Callable[[Uevent], None]] = []
        """Called with each event, on the event loop, while the socket is open."""
        self._worker = worker
        self._log = log
        self._start = start
        self._load_module = load_module
        self._open_socket = open_socket
        self._check_node = check_node or check_node_state
        self._owns_guest = owns_guest
        self._socket: UeventSocket | None = None
        self._waiters: dict[str, Waiter] = {}
        self._times: dict[str, int] = {}
        self._aliases: set[str] = set()

    async def wait(self, matcher: Matcher, timeout_s: float | None = None) -> Arrival:
        """The device, at once when it is there. Raises `TimedOut` after `timeout_s` (None: the setting)."""
        asked_ns = time.monotonic_ns()
        self.listen()
        found = self._look(matcher)
        if isinstance(found, Missing):
            found = await self._wait(matcher, found, self.timeout_s if timeout_s is None else timeout_s)
        ready_ns = time.monotonic_ns()
        devpath = self._devpath(found.folder)
        event_ns = self._times.get(devpath) or read_node_time(found.node)
        return Arrival(matcher.text, matcher.group, found, devpath, event_ns, asked_ns, ready_ns)

    def listen(self) -> None:
        """Subscribe, if that was not done before. Raises `OSError`."""
        if self._socket is None:
            self._socket = self._open_socket()
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read_events)

    def close(self) -> None:
        """End the subscription. Who still waits runs into its deadline."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def waiting(self) -> Iterator[tuple[Matcher, Missing]]:
        """What is waited for now, and what there is of it."""
        return ((waiter.matcher, waiter.missing) for waiter in tuple(self._waiters.values()))

    async def _wait(self, matcher: Matcher, missing: Missing, timeout_s: float) -> Found:
        waiter = self._waiters.setdefault(matcher.text, Waiter(matcher))
        waiter.missing = missing
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        waiter.futures.add(future)
        late = asyncio.get_running_loop().call_later(timeout_s * _LATE_PART, self._prompt, waiter, _LATE)
        try:
            self._prompt(waiter, _FIRST)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            found = self._look(matcher)  # the loop may have been late, and the device not
            if isinstance(found, Found):
                return found
            raise TimedOut(
                f"Timeout after {timeout_s:g}s waiting for uevent {matcher.text}: {found.text}"
            ) from None
        finally:
            late.cancel()
            waiter.futures.discard(future)
            if not waiter.futures and self._waiters.get(matcher.text) is waiter:
                del self._waiters[matcher.text]

    def _read_events(self) -> None:
        assert self._socket is not None  # noqa: S101 - its reader is removed with it
        events, lost = self._socket.read()
        if lost:
            self.lost += 1
            self._log.warning("device", "events were lost: looking for everything that is waited for")
        for event in events:
            self._note_time(event)
            for callback in self.on_event:
                callback(event)
        for waiter in tuple(self._waiters.values()):
            if lost or any(waiter.matcher.concerns(event) for event in events):
                self._look_for(waiter)

    def _note_time(self, event: Uevent) -> None:
        if event.action == "add":
            self._times.pop(event.devpath, None)
            self._times[event.devpath] = event.time_ns
            if len(self._times) > _KEPT_TIMES:
                del self._times[next(iter(self._times))]
        elif event.action == "remove":
            self._times.pop(event.devpath, None)

    def _look_for(self, waiter: Waiter) -> None:
        """Look once for all who wait."""
        found = self._look(waiter.matcher)
        if isinstance(found, Found):
            for future in waiter.futures:
                if not future.done():
                    future.set_result(found)
            return
        waiter.missing = found
        if found.undriven and self._owns_guest:
            self._drive(waiter)

    def _look(self, matcher: Matcher) -> Found | Missing:
        try:
            found = matcher.look(self.sysfs)
        except OSError as error:  # it went while it was looked at
            return Missing(describe(error))
        if isinstance(found, Missing) or not found.node:
            return found
        state = self._check_node(found)
        return Missing(state) if state else found

    def _prompt(self, waiter: Waiter, stage: str) -> None:
        """Make the kernel look, once for all who wait."""
        if not self._owns_guest or stage in waiter.prompted or not waiter.futures:
            return
        waiter.prompted.add(stage)
        prompts = waiter.matcher.prompts(self.sysfs, late=stage == _LATE)
        if prompts:
            self._start(self._write_prompts(waiter, prompts))
        if waiter.missing.undriven:
            self._drive(waiter)

    async def _write_prompts(self, waiter: Waiter, prompts: tuple[Prompt, ...]) -> None:
        for prompt in prompts:
            try:
                await self._worker.run(partial(_write, prompt))
            except OSError as error:
                self._log.debug("device", "the kernel could not be asked to look", error=describe(error))
        self._look_for(waiter)

    def _drive(self, waiter: Waiter) -> None:
        """Load what a device on the way lacks. There is no udev here that would."""
        aliases = {alias for folder in waiter.missing.undriven if (alias := _read_alias(folder))}
        fresh = sorted(aliases - self._aliases)
        self._aliases.update(fresh)
        if fresh:
            self._start(self._load(waiter, fresh))

    async def _load(self, waiter: Waiter, aliases: list[str]) -> None:
        for alias in aliases:
            try:
                await self._load_module(alias)
            except (AgentError, OSError) as error:
                self._log.debug("device", "no module for a device", alias=alias, error=describe(error))
        self._prompt_again(waiter)

    def _prompt_again(self, waiter: Waiter) -> None:
        """A driver that has just come may bring a bus that nobody has asked yet."""
        waiter.prompted.discard(_FIRST)
        self._look_for(waiter)
        if any(not future.done() for future in waiter.futures):
            self._prompt(waiter, _FIRST)

    def _devpath(self, folder: str) -> str:
        return os.path.realpath(folder).removeprefix(os.path.realpath(self.sysfs))


def check_node_state(found: Found) -> str:
    """Empty when the node of a device can be used, else what is wrong with it.

    A disk is in sysfs a moment before it can be opened (ENXIO until then); its event comes after both.
    """
    try:
        seen = os.stat(found.node)
        if (os.major(seen.st_rdev), os.minor(seen.st_rdev)) != (found.major, found.minor):
            return f"{found.name} present, but {found.node} is another device"
        if stat.S_ISBLK(seen.st_mode):
            os.close(os.open(found.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return f"{found.name} present, but {describe(error)}"
    return ""


def read_node_time(node: str) -> int:
    """When a node was made, on the monotonic clock and as exact as the kernel's ticks; 0 for none."""
    try:
        made_ns = os.stat(node).st_ctime_ns
    except OSError:
        return 0
    return max(made_ns - time.time_ns() + time.monotonic_ns(), 0)


def _write(prompt: Prompt) -> None:
    with open(prompt.path, "w", encoding="ascii") as file:
        file.write(prompt.data)


def _read_alias(folder: str) -> str:
    try:
        with open(f"{folder}/modalias", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
