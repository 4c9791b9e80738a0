"""The devices that stand in the way of saving: what a machine that can be saved does without, and its copies may have.

Owns: their names and ports, how what QEMU's command line says of them is said while it runs, and the names of all that
such a machine has from its start. Must not know: when. Follows QEMU's QMP reference (chardev-add, device_add).
"""

from __future__ import annotations

import asyncio
from typing import Any

from kata_host.vm.base import VmConfig
from kata_host.vm.qmp import Machine

PORTS = 8
"""Root ports of a machine that can be saved: room for all that a copy of it is given."""

VSOCK, SHARE = "vsock0", "share0"
_OWN_PORTS = {VSOCK: "rp6", SHARE: "rp7"}
_SERIAL = ("serial0", "channel0", "bell0")
_LOOK_S = 0.02
_NUMBERS = ("guest-cid",)

Call = tuple[str, dict[str, Any]]


def plan_calls(arguments: tuple[str, ...], name: str) -> tuple[Call, ...]:
    """A device of the command line, `-chardev socket,...` (a unix socket's client) and `-device`, as calls. Pure."""
    planned: list[Call] = []
    for option, text in zip(arguments[::2], arguments[1::2], strict=True):
        kind, *pairs = text.replace(",,", "\0").split(",")
        values = {key: value.replace("\0", ",") for key, _, value in (pair.partition("=") for pair in pairs)}
        if option == "-chardev":
            address = {"type": "unix", "data": {"path": values["path"]}}
            backend = {"type": kind, "data": {"addr": address, "server": False}}
            planned.append(("chardev-add", {"id": values["id"], "backend": backend}))
        else:
            typed = {key: int(value) if key in _NUMBERS else value for key, value in values.items()}
            planned.append(("device_add", {"driver": kind, **typed, "id": name, "bus": _OWN_PORTS[name]}))
    return tuple(planned)


async def plug(machine: Machine, arguments: tuple[str, ...], name: str) -> None:
    """Plug it. Raises `VmError`."""
    for command, values in plan_calls(arguments, name):
        await machine.execute(command, values)


async def wait_driven(machine: Machine, name: str) -> None:
    """Until the guest's driver has taken a plugged virtio device; nothing tells, so QEMU is asked again and again.

    vhost-device-vsock 0.3.0 that is called before stands still for good, now and then. Bound it from outside.
    """
    path: dict[str, Any] = {"path": f"/machine/peripheral/{name}/virtio-backend"}
    while True:
        told: Any = await machine.execute("x-query-virtio-status", path)
        if any("DRIVER_OK" in word for word in told["status"]["statuses"]):
            return
        await asyncio.sleep(_LOOK_S)


async def find_plugged(machine: Machine, config: VmConfig) -> tuple[str, ...]:
    """What the machine has by now that it did not have at its start, by QEMU's names."""
    first = {
        *_SERIAL,
        *(f"rp{port}" for port in range(PORTS)),
        *(f"nic{number}" for number in range(len(config.nics))),
    }
    there: Any = await machine.execute("qom-list", {"path": "/machine/peripheral"})
    return tuple(sorted(entry["name"] for entry in there if entry["name"] not in {*first, "type"}))


async def find_unpluggable(machine: Machine, config: VmConfig) -> tuple[str, ...]:
    """Those of them that can be pulled: what is behind a copy's vsock and share ends with its connection, and the
    machine with it."""
    return tuple(name for name in await find_plugged(machine, config) if name not in _OWN_PORTS)
