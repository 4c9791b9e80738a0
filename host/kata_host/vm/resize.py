"""Plugging processors and memory into a running machine, by QMP.

The guest's agent brings them into use (`OnlineCPUMem`); most kernels do so with memory by themselves. By their ids
`plug.Monitor.unplug` pulls them again; the guest's kernel takes them out of use by itself, or keeps them.
Owns the names of what is plugged. Must not know: the guest. Follows QEMU's QMP reference and docs of memory hotplug:
`query-hotpluggable-cpus`, `pc-dimm`, `virtio-mem`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_host.vm.base import MEMORY_DEVICE, VmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_host.vm.qmp import Machine

_MIB = 1 << 20
_BLOCK_MIB = 128
CPUS = "cpu"
"""What plugged processors are called unless a name is given: `cpu-SOCKET-CORE-THREAD`."""


async def plug_cpus(machine: Machine, count: int, name: str = CPUS) -> tuple[str, ...]:
    """Plug `count` processors more, or none; gives their device ids. VmError when there is no room."""
    slots = await machine.execute("query-hotpluggable-cpus")
    planned = plan_cpus(slots, count, name)
    done = []
    try:
        for arguments in planned:
            await machine.execute("device_add", arguments)
            done.append(str(arguments["id"]))
    except VmError:
        for name in reversed(done):
            await machine.execute("device_del", {"id": name})
        raise
    return tuple(done)


def plan_cpus(slots: Sequence[dict[str, Any]], count: int, name: str = CPUS) -> tuple[dict[str, object], ...]:
    """The `device_add` of each processor, lowest socket first. Pure; VmError when there is no room."""
    free = sorted(
        (slot for slot in slots if "qom-path" not in slot), key=lambda slot: sorted(slot["props"].items())
    )
    if len(free) < count:
        used = len(slots) - len(free)
        raise VmError(
            f"cannot plug {count} processors: {used} of {len(slots)} are there, launch with more max_cpus"
        )
    return tuple(
        {"driver": slot["type"], "id": f"{name}-{_place(slot['props'])}", **slot["props"]}
        for slot in free[:count]
    )


async def list_cpus(machine: Machine, name: str = CPUS) -> tuple[str, ...]:
    """Device ids of the processors that were plugged under this name, the highest socket first: that is the order to
    pull them in."""
    slots = await machine.execute("query-hotpluggable-cpus")
    ids = (
        (slot["props"].get("socket-id", 0), f"{name}-{_place(slot['props'])}")
        for slot in slots
        if slot.get("qom-path") == f"/machine/peripheral/{name}-{_place(slot['props'])}"
    )
    return tuple(found for _, found in sorted(ids, reverse=True))


async def plug_memory(machine: Machine, name: str, mib: int) -> str:
    """Plug a memory module of `mib` (a multiple of 128, the guest's block) into a free slot; gives its device id."""
    if mib % _BLOCK_MIB:
        raise VmError(f"a module of {mib} MiB: the guest takes memory in blocks of {_BLOCK_MIB} MiB")
    backend = f"{name}-backend"
    # Guest memory is a shared memfd everywhere, because vhost-user devices map it.
    memory = {"qom-type": "memory-backend-memfd", "id": backend, "size": mib * _MIB, "share": True}
    await machine.execute("object-add", memory)
    try:
        await machine.execute("device_add", {"driver": "pc-dimm", "id": name, "memdev": backend})
    except VmError:
        await machine.execute("object-del", {"id": backend})
        raise
    return name


async def resize_memory_device(machine: Machine, mib: int) -> None:
    """Ask the guest to use `mib` of its memory device; how much it does use `read_memory_device` tells."""
    value = {
        "path": f"/machine/peripheral/{MEMORY_DEVICE}",
        "property": "requested-size",
        "value": mib * _MIB,
    }
    await machine.execute("qom-set", value)


async def read_memory_device(machine: Machine) -> int:
    """MiB of its memory device that the guest uses."""
    found = await machine.execute(
        "qom-get", {"path": f"/machine/peripheral/{MEMORY_DEVICE}", "property": "size"}
    )
    return int(found) // _MIB


def _place(props: dict[str, Any]) -> str:
    return "-".join(str(props[key]) for key in ("socket-id", "core-id", "thread-id") if key in props)
