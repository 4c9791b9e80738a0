"""The devices of a container: each is handled by its type's handler, then the specification is rewritten for all.

Owns: the table of handlers, their order, and giving everything back when one of them fails. Must not know: what a
handler does, the wire. A handler is a module with `prepare(device, devices, container_id) -> Handled` and, if what
it did must be undone, `release(undo, devices)`; `adopt(kind, undo, devices)` if a later agent must know of it.
All devices of a container are handled at once.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kata_agent import errors
from kata_agent.devices import environment, rewrite
from kata_agent.devices.request import DeviceRequest, Handled, check
from kata_agent.errors import InvalidRequest, NotSupported
from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kata_agent.devices.book import Book
    from kata_agent.devices.vfio import Functions
    from kata_agent.log import Log
    from kata_agent.worker import Worker

# Type of the wire -> module below `kata_agent.devices`, imported when it is first named.
HANDLERS = {
    "blk": "disk",
    "mmioblk": "disk",
    "nvdimm": "disk",
    "scsi": "disk",
    "vfio-pci": "vfio",
    "vfio-pci-gk": "vfio",
}

# Of another kind of machine.
NOT_HERE = frozenset({"blk-ccw", "vfio-ap", "vfio-ap-cold"})


class Attachment(Record):
    """What a container has of its devices, as JSON-shaped data: guest addresses by the host's, words for undoing."""

    pci: dict[str, str]
    undo: list[list[str]]


class Devices:
    """One per agent."""

    def __init__(
        self, book: Book, worker: Worker, log: Log, load_module: Callable[[str], Awaitable[None]]
    ) -> None:
        """`load_module` loads by name or alias, or raises."""
        self.book = book
        self.worker = worker
        self.log = log
        self._load_module = load_module

    @cached_property
    def functions(self) -> Functions:
        """Who uses which PCI function."""
        from kata_agent.devices.pci_bus import PciBus
        from kata_agent.devices.vfio import Functions

        return Functions(PciBus(), self.worker.run, self._load_module, self.log)

    async def attach(
        self, container_id: str, requests: Sequence[DeviceRequest], spec: dict[str, Any]
    ) -> tuple[dict[str, Any], Attachment]:
        """The specification with the guest's devices in it; all or nothing. Raises what a handler raises."""
        for device in requests:
            check(device)
            find_handler(device.type)
        handled = await self._handle(container_id, requests)
        attachment = Attachment({}, [])
        try:
            for device, found in zip(requests, handled, strict=True):
                if found.undo:
                    attachment.undo.append([device.type, *found.undo])
            for found in handled:
                add_addresses(attachment.pci, found.pci)
            pairs = [
                (device, found.node) for device, found in zip(requests, handled, strict=True) if found.node
            ]
            rewritten = rewrite.rewrite(spec, rewrite.plan_nodes(pairs))
            return translate_process(rewritten, attachment.pci, container_id), attachment
        except BaseException:
            await self.release(container_id, attachment)
            raise

    def adopt(self, recorded: dict[str, Any]) -> None:
        """After a restart: a container has these, as `Attachment` says it. Handlers that count users are told."""
        for kind, *undo in recorded["undo"]:
            adopt = getattr(find_handler(kind), "adopt", None)
            if adopt is not None:
                adopt(kind, tuple(undo), self)

    async def release(self, container_id: str, attachment: Attachment) -> None:
        """Undo, in reverse order. Failures are logged: the device is lost for the next container, not this call."""
        self.book.release(container_id)
        for kind, *undo in reversed(attachment.undo):
            try:
                await find_handler(kind).release(tuple(undo), self)
            except (errors.AgentError, OSError) as error:
                text = errors.describe(error)
                self.log.warning("device", "not given back", type=kind, device=" ".join(undo), error=text)

    async def _handle(self, container_id: str, requests: Sequence[DeviceRequest]) -> list[Handled]:
        """What the handlers give, in order. When one fails, those that are done are undone."""
        handled: dict[int, Handled] = {}

        async def handle(index: int, device: DeviceRequest) -> None:
            handled[index] = await find_handler(device.type).prepare(device, self, container_id)

        try:
            async with asyncio.TaskGroup() as group:
                for index, device in enumerate(requests):
                    group.create_task(handle(index, device))
        except BaseException as failed:
            undo = [
                [requests[index].type, *found.undo] for index, found in sorted(handled.items()) if found.undo
            ]
            await self.release(container_id, Attachment({}, undo))
            if isinstance(failed, BaseExceptionGroup):
                raise errors.unwrap(failed.exceptions[0]) from None
            raise
        return [handled[index] for index in range(len(requests))]


def find_handler(kind: str) -> Any:
    """The handler's module. Raises `NotSupported` with the text that hosts know."""
    if kind not in HANDLERS:
        why = "it is of s390x, this guest has PCI" if kind in NOT_HERE else "there is none of that name"
        raise NotSupported(f"Failed to find the device handler {kind}: {why}")
    return import_module(f"kata_agent.devices.{HANDLERS[kind]}")


def add_addresses(known: dict[str, str], pairs: Sequence[tuple[str, str]]) -> None:
    """Addresses of one device more. Raises `InvalidRequest` when one address has become two. Changes `known`."""
    for host, guest in pairs:
        if known.setdefault(host, guest) != guest:
            raise InvalidRequest(f"host PCI address {host} is {known[host]} and {guest} in the guest")


def translate_process(spec: dict[str, Any], addresses: dict[str, str], container_id: str) -> dict[str, Any]:
    """The specification with the guest's addresses in its process's environment. Pure."""
    process = spec.get("process")
    if not process or not environment.concerns(process.get("env") or ()):
        return spec
    translated = environment.translate(process["env"], addresses, container_id)
    return {**spec, "process": {**process, "env": translated}}
