"""Plugging devices into a running QEMU machine and pulling them out again, through its QMP socket.

Owns: QEMU's words for disks, interfaces and memory, and where the guest will find them: `Plugged.address` is what the
agent's storages and devices want (a PCI path, a SCSI address, a node). Must not know: how a machine was started, beyond
its empty root ports. Follows QEMU's QMP reference (device_add, blockdev-add, netdev_add, object-add, DEVICE_DELETED).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from kata_host.vm import qmp
from kata_host.vm.base import VmError

# The guest's part of an unplug: its driver lets go, emulated.
UNPLUG_TIMEOUT_S = 60.0
SCSI_CONTROLLER = "scsi0"
# What a device's property says it stands on -> how that is taken away.
_BACKENDS = {
    "drive": ("blockdev-del", "node-name"),
    "netdev": ("netdev_del", "id"),
    "memdev": ("object-del", "id"),
}

# How what a device stands on is taken away: command, argument, name.
Backend = tuple[str, str, str]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_PROCESSOR = re.compile(r"-cpu>$")
GONE = "DEVICE_DELETED"
# QEMU tells of a processor only by its interrupt controller.
_OF_A_PROCESSOR = "lapic"
REFUSALS = ("DEVICE_UNPLUG_GUEST_ERROR", "ACPI_DEVICE_OST")
# ACPI 6.3, 6.3.5 (_OST): what a status is about, and the statuses that are no refusal.
_EJECT_REQUESTS = (0x3, 0x103)
_SUCCESS, _IN_PROGRESS = 0x0, 0x84


@dataclass(frozen=True)
class Plugged:
    """A device of ours. `id` is QEMU's; `address` the guest's; `backends` go with it."""

    id: str
    address: str
    backends: tuple[Backend, ...] = ()


@asynccontextmanager
async def open_monitor(socket: Path) -> AsyncIterator[Monitor]:
    """The machine behind a QMP socket (`VmState`'s `qmp.sock`), for as long as the context lasts. Raises `VmError`."""
    client = QMPClient(f"plug {socket.parent.name}")
    try:
        async with asyncio.timeout(qmp.TIMEOUT_S):
            await client.connect(str(socket))
    except (QMPError, OSError, TimeoutError) as exc:
        raise VmError(
            f"{socket}: no machine answers there: {exc or 'it is busy with another client'}"
        ) from exc
    try:
        yield Monitor(client)
    finally:
        await client.disconnect()


class Monitor:
    """One conversation with QEMU. Methods raise `VmError` with QEMU's text; a plug that fails leaves nothing."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Any QMP command."""
        return await qmp.run_command(self._client, command, arguments)

    async def plug_disk(self, name: str, image: Path, *, read_only: bool = False) -> Plugged:
        """A raw image as a virtio-blk disk on an empty root port; its address is a PCI path."""
        node = await self._open_image(name, image, read_only=read_only)
        options = {"drive": node[2], "serial": name[:20]}
        return await self.plug_pci(name, "virtio-blk-pci", options, node)

    async def plug_scsi_disk(
        self, name: str, image: Path, target: int, unit: int = 0, *, read_only: bool = False
    ) -> Plugged:
        """A raw image as a disk of the machine's virtio-scsi controller, which comes with its first disk."""
        if SCSI_CONTROLLER not in await self._list_devices():
            await self.plug_pci(SCSI_CONTROLLER, "virtio-scsi-pci")
        node = await self._open_image(name, image, read_only=read_only)
        options = {"bus": f"{SCSI_CONTROLLER}.0", "channel": 0, "scsi-id": target, "lun": unit}
        return await self._add(name, f"{target}:{unit}", "scsi-hd", (node,), {**options, "drive": node[2]})

    async def plug_nic(self, name: str, mac: str, network: Mapping[str, object] | None = None) -> Plugged:
        """A virtio-net device on QEMU's user network, with more words about that; its address is a PCI path."""
        backend = ("netdev_del", "id", f"{name}-net")
        await self.execute("netdev_add", {"type": "user", "id": backend[2], **(network or {})})
        return await self.plug_pci(name, "virtio-net-pci", {"netdev": backend[2], "mac": mac}, backend)

    async def plug_pmem(self, name: str, image: Path) -> Plugged:
        """A file as persistent memory, by virtio; its size is a multiple of 2 MiB. It is the guest's next /dev/pmemN,
        and stays: QEMU cannot take it away again."""
        backend = ("object-del", "id", f"{name}-mem")
        file = {"mem-path": str(image), "size": os.stat(image).st_size, "share": True}
        await self.execute("object-add", {"qom-type": "memory-backend-file", "id": backend[2], **file})
        return await self.plug_pci(name, "virtio-pmem-pci", {"memdev": backend[2]}, backend)

    async def plug_pci(
        self, name: str, driver: str, options: Mapping[str, object] | None = None, *backends: Backend
    ) -> Plugged:
        """Any PCI device of QEMU's, with these properties, on an empty root port. `backends` go when it is refused."""
        try:
            port, slot = await self._find_port()
        except VmError:
            await self._drop(backends)
            raise
        return await self._add(name, f"{slot:02x}/00", driver, backends, {**(options or {}), "bus": port})

    async def check_name(self, name: str) -> None:
        """VmError for a name that no device can get, or that one has."""
        if not _NAME.fullmatch(name):
            raise VmError(
                f"{name!r}: a device's name begins with a letter and has letters, digits, '.', '_' and '-'"
            )
        if name in await self._list_devices():
            raise VmError(f"the machine has a device {name} already; unplug it, or choose another name")

    async def recall(self, name: str) -> Plugged:
        """A device that somebody has plugged under this name, for `unplug`."""
        kind = (await self._list_devices()).get(name)
        if kind is None:
            raise VmError(f"the machine has no device {name}")
        if _PROCESSOR.search(kind) and not (await self.execute("query-kvm"))["enabled"]:
            # Seen with 7.2: the next change of the machine's address space hangs or kills QEMU.
            raise VmError(f"{name} stays: without KVM, QEMU does not outlive a processor that is pulled")
        path = f"/machine/peripheral/{name}"
        known = {entry["name"] for entry in await self.execute("qom-list", {"path": path})}
        backends = []
        for wanted, (command, argument) in _BACKENDS.items():
            if wanted in known and (value := await self._get(path, wanted)):
                backends.append((command, argument, str(value).rpartition("/")[2]))
        return Plugged(name, "", tuple(backends))

    async def unplug(self, device: Plugged) -> None:
        """Ask the guest to let the device go, wait until it has, and close what was behind it.

        `VmError` when the guest tells that it keeps the device, or tells nothing.
        """
        with self._client.listener((GONE, *REFUSALS)) as events:
            await self.execute("device_del", {"id": device.id})
            try:
                async with asyncio.timeout(UNPLUG_TIMEOUT_S):
                    async for event in events:
                        if is_gone(event, device.id):
                            break
            except TimeoutError:
                late = f"the guest has not let go of {device.id} in {UNPLUG_TIMEOUT_S:g} s"
                raise VmError(late) from None
        await self._drop(device.backends)

    async def _add(
        self,
        name: str,
        address: str,
        driver: str,
        backends: tuple[Backend, ...],
        options: Mapping[str, object],
    ) -> Plugged:
        try:
            await self.execute("device_add", {"driver": driver, "id": name, **options})
        except VmError:
            await self._drop(backends)
            raise
        return Plugged(name, address, backends)

    async def _open_image(self, name: str, image: Path, *, read_only: bool) -> Backend:
        if not os.stat(image).st_size:
            raise VmError(f"{image}: is empty; a disk has a size")
        node = f"{name}-node"
        file = {"driver": "file", "filename": os.path.abspath(image)}  # noqa: ASYNC240 - asks no disk
        raw = {"driver": "raw", "node-name": node, "read-only": read_only, "file": file}
        await self.execute("blockdev-add", raw)
        return ("blockdev-del", "node-name", node)

    async def _drop(self, backends: tuple[Backend, ...]) -> None:
        for command, argument, name in backends:
            await self.execute(command, {argument: name})

    async def _find_port(self) -> tuple[str, int]:
        """An empty root port and its slot on the root bus."""
        for bus in await self.execute("query-pci"):
            for device in bus["devices"]:
                bridge = device.get("pci_bridge")
                if bridge is not None and device["qdev_id"] and not bridge.get("devices"):
                    return device["qdev_id"], device["slot"]
        raise VmError("every root port of the machine has a device: unplug one first")

    async def _get(self, path: str, name: str) -> Any:
        return await self.execute("qom-get", {"path": path, "property": name})

    async def _list_devices(self) -> dict[str, str]:
        """QEMU's types of the devices that have names of ours, as `child<virtio-blk-pci>`."""
        listed = await self.execute("qom-list", {"path": "/machine/peripheral"})
        return {entry["name"]: entry["type"] for entry in listed}


def is_gone(event: Mapping[str, Any], device: str) -> bool:
    """Whether an event says that the device has gone. Raises `VmError` when it says that the guest keeps it. Pure."""
    name, data = event["event"], event["data"]
    if name == GONE:
        path = f"/machine/peripheral/{device}"
        return data["path"] in (path, f"{path}/{_OF_A_PROCESSOR}")
    status = ""
    if name == "ACPI_DEVICE_OST":
        data = data["info"]
        if data["source"] not in _EJECT_REQUESTS or data["status"] in (_SUCCESS, _IN_PROGRESS):
            return False
        status = f" (ACPI status {data['status']:#x})"
    if data.get("device") == device:
        raise VmError(f"the guest keeps {device}: it is in use, or cannot be taken out of use{status}")
    return False
