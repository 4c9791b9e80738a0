"""`vfio-pci` and `vfio-pci-gk`: PCI functions for a container's own driver, or for one of the guest's kernel.

Owns: which container uses a function in which way, and handing functions to `vfio-pci` and back. Must not know: the
specification. Follows: Kata's agent 3.21, "VFIO PCI modes"; the kernel's vfio.rst. A function may have several users
of one kind (a pod's containers); the last one gives it back.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from kata_agent.devices import pci
from kata_agent.devices.match import Found, Missing, PciFunction, Prompt, read_block
from kata_agent.devices.pci_bus import PciBus, plan_override, plan_restore
from kata_agent.devices.request import Handled, Node
from kata_agent.errors import AgentError, InvalidRequest, Malformed, NotSupported, WrongState, describe
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kata_agent.devices.attach import Devices
    from kata_agent.devices.match import Matcher
    from kata_agent.devices.request import DeviceRequest
    from kata_agent.log import Log
    from kata_linux.uevent import Uevent

DRIVER = "vfio-pci"
KERNEL = "vfio-pci-gk"
# The second is what programs in containers map their memory with; nothing in a guest loads it by itself.
MODULES = ("vfio-pci", "vfio_iommu_type1")


class Wanted(Record):
    """One function: its address on the host, and its path in the guest."""

    host: str
    path: str


class VfioGroup:
    """The node of an IOMMU group."""

    group = "vfio"

    def __init__(self, number: str) -> None:
        self.number = number
        self.text = f"VFIO group {number}"

    def look(self, sysfs: str) -> Found | Missing:
        """The group's character device."""
        groups = pci.list_folder(f"{sysfs}/class/vfio")
        if self.number in groups:
            return read_block(f"{sysfs}/class/vfio/{self.number}", self.number)
        return Missing(f"the VFIO groups there are: {', '.join(groups) or 'none'}")

    def concerns(self, event: Uevent) -> bool:
        """Groups, and functions that get a driver."""
        return event.subsystem in ("vfio", "pci")

    def prompts(self, sysfs: str, *, late: bool) -> tuple[Prompt, ...]:
        """The group comes with its first function."""
        return ()


class Functions:
    """Which containers use which functions, and how. `load_module` is by name or alias."""

    def __init__(
        self,
        bus: PciBus,
        run: Callable[[Callable[[], None]], Awaitable[None]],
        load_module: Callable[[str], Awaitable[None]],
        log: Log,
    ) -> None:
        self._bus = bus
        self._run = run
        self._load_module = load_module
        self._log = log
        self._users: dict[str, tuple[str, set[str]]] = {}
        self._lock = asyncio.Lock()
        """One function at a time changes its driver."""

    async def take(self, kind: str, addresses: Sequence[str], user: str) -> str:
        """Make functions that are there ready for a container; gives their VFIO group, nothing for the kernel's.

        WrongState when another container uses one of them in the other way; AgentError, InvalidRequest, OSError.
        """
        async with self._lock:
            for address in addresses:
                self._check_free(kind, address)
            self.adopt(kind, addresses, user)
            try:
                for address in addresses:
                    await self._run(partial(self._settle, address))
                if kind == KERNEL:
                    await self._leave_to_kernel(addresses)
                    return ""
                return await self._bind(addresses)
            except BaseException:
                await self._drop(addresses, user)
                raise

    async def give_back(self, addresses: Sequence[str], user: str) -> None:
        """A container has gone."""
        async with self._lock:
            await self._drop(addresses, user)

    def adopt(self, kind: str, addresses: Sequence[str], user: str) -> None:
        """After a restart: a container uses these."""
        for address in addresses:
            self._users.setdefault(address, (kind, set()))[1].add(user)

    def _check_free(self, kind: str, address: str) -> None:
        used, users = self._users.get(address, (kind, set()))
        if used != kind:
            others = ", ".join(sorted(users))
            raise WrongState(
                f"PCI device {address} is used as {used} by {others}: it cannot be {kind} as well"
            )

    def _settle(self, address: str) -> None:
        self._bus.settle(address)
        unassigned = self._bus.list_unassigned(address)
        if unassigned:
            raise AgentError(
                f"PCI device {address}: no room for {', '.join(unassigned)}: "
                "give the port that it is plugged into a larger memory window"
            )

    async def _bind(self, addresses: Sequence[str]) -> str:
        for module in MODULES:
            if not (module == DRIVER and self._bus.has_driver(DRIVER)):
                await self._load_module(module)
        groups: dict[str, str] = {}
        for address in addresses:
            await self._run(partial(self._override, address))
            groups[address] = self._bus.observe(address).group
        return check_group(groups, self._bus)

    def _override(self, address: str) -> None:
        function = self._bus.observe(address)
        if not function.group:
            raise NotSupported(
                f"{address} has no IOMMU group: the machine needs an IOMMU, and its kernel to use it (intel_iommu=on)"
            )
        self._bus.apply(plan_override(function, DRIVER))
        driver = self._bus.observe(address).driver
        if driver != DRIVER:
            raise AgentError(
                f"PCI device {address}: {DRIVER} did not take it, {driver or 'no driver'} has it"
            )

    async def _leave_to_kernel(self, addresses: Sequence[str]) -> None:
        """The driver that knows it may have it; that there is one is the container's affair."""
        for address in addresses:
            function = self._bus.observe(address)
            if function.driver == DRIVER:  # an agent that was killed had begun with it
                await self._run(partial(self._restore, address))
            elif not function.driver and function.alias:
                try:
                    await self._load_module(function.alias)
                except AgentError as error:
                    fields = {"address": address, "alias": function.alias, "error": describe(error)}
                    self._log.info("device", "the guest has no driver for a PCI device", **fields)

    def _restore(self, address: str) -> None:
        self._bus.apply(plan_restore(self._bus.observe(address), DRIVER))

    async def _drop(self, addresses: Sequence[str], user: str) -> None:
        """The last user gives a function back."""
        for address in addresses:
            kind, users = self._users.get(address, (KERNEL, set()))
            users.discard(user)
            if users:
                continue
            self._users.pop(address, None)
            if kind == DRIVER:
                try:
                    await self._run(partial(self._restore, address))
                except FileNotFoundError:
                    pass  # it was unplugged


async def prepare(device: DeviceRequest, devices: Devices, container_id: str) -> Handled:
    """Wait for every function of the device and make it ready. Raises what waiting and `Functions.take` raise."""
    wanted = [parse_option(text) for text in device.options]
    if not wanted:
        raise InvalidRequest(f"{device.type} device {device.id!r}: it names no function, options are needed")
    matchers: list[Matcher] = [PciFunction(one.path) for one in wanted]
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(devices.book.wait(device.type, one, container_id)) for one in matchers]
    addresses = [wait.result().found.name for wait in waits]
    number = await devices.functions.take(device.type, addresses, container_id)
    try:
        node = await _wait_node(device, devices, number, container_id) if number else None
    except BaseException:
        await devices.functions.give_back(addresses, container_id)
        raise
    pairs = tuple((one.host, address) for one, address in zip(wanted, addresses, strict=True))
    return Handled(node, pairs, (container_id, *addresses))


async def release(undo: tuple[str, ...], devices: Devices) -> None:
    """The inverse of `prepare`."""
    container_id, *addresses = undo
    await devices.functions.give_back(addresses, container_id)


def adopt(kind: str, undo: tuple[str, ...], devices: Devices) -> None:
    """An agent before this one has prepared it."""
    container_id, *addresses = undo
    devices.functions.adopt(kind, addresses, container_id)


async def _wait_node(device: DeviceRequest, devices: Devices, number: str, container_id: str) -> Node:
    arrival = await devices.book.wait(device.type, VfioGroup(number), container_id)
    found = arrival.found
    return Node("c", found.major, found.minor, found.node)


def parse_option(text: str) -> Wanted:
    """`0000:65:00.0=02/00`. Raises `Malformed`."""
    host, equals, path = text.partition("=")
    try:
        pci.parse_path(path)
        return Wanted(pci.parse_address(host), path)
    except Malformed as error:
        why = str(error) if equals else "there is no `=`"
        raise Malformed(
            f"Malformed VFIO PCI option {text!r}: {why}; one like 0000:65:00.0=02/00 is needed"
        ) from None


def check_group(groups: dict[str, str], bus: PciBus) -> str:
    """The one group of all functions, when nobody else of the guest uses what else is in it."""
    numbers = sorted(set(groups.values()))
    if len(numbers) != 1:
        told = ", ".join(f"{address} is in {number}" for address, number in groups.items())
        raise InvalidRequest(f"one VFIO device is one IOMMU group: {told}")
    for other in bus.list_group(numbers[0]):
        if other.driver not in ("", DRIVER) and not bus.is_bridge(other.address):
            raise InvalidRequest(
                f"IOMMU group {numbers[0]} also has {other.address}, which driver {other.driver} uses"
            )
    return numbers[0]
