"""A device as the host asks for it, and what its handler makes of it. Pure values."""

from __future__ import annotations

from kata_agent.errors import InvalidRequest
from kata_linux.record import Record


class DeviceRequest(Record):
    """One `Device` of the wire. Which of `id`, `vm_path` and `options` says where it is depends on the type."""

    type: str
    id: str = ""
    vm_path: str = ""
    container_path: str = ""
    options: tuple[str, ...] = ()


class Node(Record):
    """A node of the guest for a container: `b` or `c`, its numbers, and the path it gets there (empty: as asked)."""

    kind: str
    major: int
    minor: int
    path: str = ""


class Handled(Record):
    """What a handler gives. `pci` are pairs of host and guest addresses; `undo` are words for the handler's
    `release`, kept in the container's state file, so that a later agent can undo it."""

    node: Node | None = None
    pci: tuple[tuple[str, str], ...] = ()
    undo: tuple[str, ...] = ()


def check(device: DeviceRequest) -> None:
    """Refuse what says too little. Raises `InvalidRequest`."""
    if not device.type:
        raise InvalidRequest(f"invalid type for device {device.id or device.vm_path!r}: it has none")
    if not device.id and not device.vm_path:
        raise InvalidRequest(f"invalid ID and VM path for device of type {device.type}: both are empty")
    if not device.container_path:
        raise InvalidRequest(
            f"invalid container path for device {device.id or device.vm_path!r}: it is empty"
        )
