"""The two devices of a machine that can be saved which stand in the way: unplugged before, plugged again after.

Owns: their names and ports, and how what QEMU's command line says of them is said while it runs. Must not know: when.
Follows QEMU's QMP reference (chardev-add, device_add).
"""

from __future__ import annotations

from typing import Any

from kata_host.vm.plug import Monitor, Plugged

VSOCK, SHARE = "vsock0", "share0"
PORTS = {VSOCK: "rp6", SHARE: "rp7"}
_CHARDEVS = {VSOCK: "vsock", SHARE: "share"}
_NUMBERS = ("guest-cid",)

Call = tuple[str, dict[str, Any]]


def on_port(arguments: tuple[str, ...], name: str) -> tuple[str, ...]:
    """A device's arguments with its name and its root port. Pure."""
    return (*arguments[:-1], f"{arguments[-1]},id={name},bus={PORTS[name]}") if arguments else ()


def plan_calls(arguments: tuple[str, ...], name: str) -> tuple[Call, ...]:
    """The same device as calls: `-chardev socket,...` (a client of a unix socket) and `-device ...`. Pure."""
    planned: list[Call] = []
    words = on_port(arguments, name)
    for option, text in zip(words[::2], words[1::2], strict=True):
        kind, *pairs = text.replace(",,", "\0").split(",")
        values = {key: value.replace("\0", ",") for key, _, value in (pair.partition("=") for pair in pairs)}
        if option == "-chardev":
            address = {"type": "unix", "data": {"path": values["path"]}}
            backend = {"type": kind, "data": {"addr": address, "server": False}}
            planned.append(("chardev-add", {"id": values["id"], "backend": backend}))
        else:
            typed = {key: int(value) if key in _NUMBERS else value for key, value in values.items()}
            planned.append(("device_add", {"driver": kind, **typed}))
    return tuple(planned)


async def plug(monitor: Monitor, arguments: tuple[str, ...], name: str) -> None:
    """Plug it. Raises `VmError`."""
    for command, values in plan_calls(arguments, name):
        await monitor.execute(command, values)


async def find(monitor: Monitor) -> tuple[str, ...]:
    """Those that the machine has."""
    there = {entry["name"] for entry in await monitor.execute("qom-list", {"path": "/machine/peripheral"})}
    return tuple(name for name in PORTS if name in there)


async def unplug(monitor: Monitor, name: str) -> None:
    """Wait until the guest has let go of it. Raises `VmError`."""
    chardevs = {entry["label"] for entry in await monitor.execute("query-chardev")}
    backend = _CHARDEVS[name]
    await monitor.unplug(
        Plugged(name, "", (("chardev-remove", "id", backend),) if backend in chardevs else ())
    )
