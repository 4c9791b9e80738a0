"""Plugging devices into a running QEMU machine and pulling them out again, through its QMP socket.

Owns: QEMU's words for disks, interfaces and memory, and where the guest will find them: `Plugged.address` is what the
agent's storages and devices want (a PCI path, a SCSI address, a node). Must not know: how a machine was started, beyond
its empty root ports. Follows QEMU's QMP reference (device_add, blockdev-add, netdev_add, object-add, DEVICE_DELETED).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from kata_host.vm.base import VmError

TIMEOUT_S = 10.0
# The guest's part of an unplug: its driver lets go, emulated.
UNPLUG_TIMEOUT_S = 60.0
SCSI_CONTROLLER = "scsi0"
# What a device's property says it stands on -> how that is taken away.
_BACKENDS = {
    "drive": ("blockdev-del", "node-name"),
    "netdev": ("netdev_del", "id"),
    "memdev": ("object-del", "id"),
}


@dataclass(frozen=True)
class Plugged:
    """A device of ours. `id` is QEMU's; `address` the guest's; `backends` go with it, as (command, argument, name)."""

    id: str
    address: str
    backends: tuple[tuple[str, str, str], ...] = ()


@asynccontextmanager
async def open_monitor(socket: Path) -> AsyncIterator[Monitor]:
    """The machine behind a QMP socket (`VmState`'s `qmp.sock`), for as long as the context lasts. Raises `VmError`."""
    client = QMPClient(f"plug {socket.parent.name}")
    try:
        async with asyncio.timeout(TIMEOUT_S):
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

    async def execute(self, command: str, **arguments: object) -> Any:
        """Any QMP command; `_` in names is written `-`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items() if value is not None}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._client.execute(command, named)
        except ExecuteError as exc:
            raise VmError(f"qemu refused {command}: {exc}") from exc
        except (QMPError, TimeoutError) as exc:
            raise VmError(f"qemu did not answer {command}: {exc}") from exc

    async def plug_disk(self, name: str, image: Path, *, read_only: bool = False) -> Plugged:
        """A raw image as a virtio-blk disk on an empty root port; its address is a PCI path."""
        node = await self._open_image(name, image, read_only=read_only)
        return await self.plug_pci(name, "virtio-blk-pci", node, drive=node[2], serial=name[:20])

    async def plug_scsi_disk(
        self, name: str, image: Path, target: int, unit: int = 0, *, read_only: bool = False
    ) -> Plugged:
        """A raw image as a disk of the machine's virtio-scsi controller, which comes with its first disk."""
        if not await self._has_device(SCSI_CONTROLLER):
            await self.plug_pci(SCSI_CONTROLLER, "virtio-scsi-pci")
        node = await self._open_image(name, image, read_only=read_only)
        options = {"bus": f"{SCSI_CONTROLLER}.0", "channel": 0, "scsi_id": target, "lun": unit}
        return await self._add(name, f"{target}:{unit}", "scsi-hd", (node,), drive=node[2], **options)

    async def plug_nic(self, name: str, mac: str, **network: object) -> Plugged:
        """A virtio-net device on QEMU's user network; its address is a PCI path."""
        backend = ("netdev_del", "id", f"{name}-net")
        await self.execute("netdev_add", type="user", id=backend[2], **network)
        return await self.plug_pci(name, "virtio-net-pci", backend, netdev=backend[2], mac=mac)

    async def plug_pmem(self, name: str, image: Path) -> Plugged:
        """A file as persistent memory, by virtio; its size is a multiple of 2 MiB. It is the guest's next /dev/pmemN,
        and stays: QEMU cannot take it away again."""
        backend = ("object-del", "id", f"{name}-mem")
        file = {"mem_path": str(image), "size": os.stat(image).st_size, "share": True}
        await self.execute("object-add", qom_type="memory-backend-file", id=backend[2], **file)
        return await self.plug_pci(name, "virtio-pmem-pci", backend, memdev=backend[2])

    async def plug_pci(
        self, name: str, driver: str, *backends: tuple[str, str, str], **options: object
    ) -> Plugged:
        """Any PCI device of QEMU's, on an empty root port."""
        try:
            port, slot = await self._find_port()
        except VmError:
            await self._drop(backends)
            raise
        return await self._add(name, f"{slot:02x}/00", driver, backends, bus=port, **options)

    async def recall(self, name: str) -> Plugged:
        """A device that somebody has plugged under this name, for `unplug`."""
        if not await self._has_device(name):
            raise VmError(f"the machine has no device {name}")
        path = f"/machine/peripheral/{name}"
        known = {entry["name"] for entry in await self.execute("qom-list", path=path)}
        backends = []
        for wanted, (command, argument) in _BACKENDS.items():
            if wanted in known and (value := await self.execute("qom-get", path=path, property=wanted)):
                backends.append((command, argument, str(value).rpartition("/")[2]))
        return Plugged(name, "", tuple(backends))

    async def unplug(self, device: Plugged) -> None:
        """Ask the guest to let the device go, wait until it has, and close what was behind it."""
        with self._client.listener("DEVICE_DELETED") as events:
            await self.execute("device_del", id=device.id)
            try:
                async with asyncio.timeout(UNPLUG_TIMEOUT_S):
                    async for event in events:
                        data: Any = event["data"]
                        if data.get("device") == device.id:
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
        backends: tuple[tuple[str, str, str], ...],
        **options: object,
    ) -> Plugged:
        try:
            await self.execute("device_add", driver=driver, id=name, **options)
        except VmError:
            await self._drop(backends)
            raise
        return Plugged(name, address, backends)

    async def _open_image(self, name: str, image: Path, *, read_only: bool) -> tuple[str, str, str]:
        node = f"{name}-node"
        file = {"driver": "file", "filename": os.path.abspath(image)}  # noqa: ASYNC240 - asks no disk
        await self.execute("blockdev-add", driver="raw", node_name=node, read_only=read_only, file=file)
        return ("blockdev-del", "node-name", node)

    async def _drop(self, backends: tuple[tuple[str, str, str], ...]) -> None:
        for command, argument, name in backends:
            await self.execute(command, **{argument: name})

    async def _find_port(self) -> tuple[str, int]:
        """An empty root port and its slot on the root bus."""
        for bus in await self.execute("query-pci"):
            for device in bus["devices"]:
                bridge = device.get("pci_bridge")
                if bridge is not None and device["qdev_id"] and not bridge.get("devices"):
                    return device["qdev_id"], device["slot"]
        raise VmError("every root port of the machine has a device: unplug one first")

    async def _has_device(self, name: str) -> bool:
        listed = await self.execute("qom-list", path="/machine/peripheral")
        return any(entry["name"] == name for entry in listed)
