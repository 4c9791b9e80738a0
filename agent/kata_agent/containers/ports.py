"""What containers need of others, and what they are asked for: the types at the edge of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from kata_linux.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_agent.containers.shared_mount import SharedMount


class ContainerRequest(Record):
    """What CreateContainer asks for, without the wire: `spec` is the OCI dictionary, `storages` is opaque."""

    container_id: str
    spec: dict[str, Any]
    storages: Sequence[object] = ()
    sandbox_pidns: bool = False
    stream_ports: tuple[int, ...] = ()
    """Of the connections for stdin, stdout and stderr; none, or 0 in its place: by calls."""
    devices: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default, never changed
    """What it has of devices, JSON-shaped: given back when it is removed. `pci` translates an exec's environment."""
    shared_mounts: Sequence[SharedMount] = ()


class Storages(Protocol):
    """Mounts of a container that others own (`kata_agent.mounts`); called after the request was found good."""

    async def mount(self, container_id: str, storages: Sequence[object]) -> tuple[str, ...]:
        """Mount all or nothing; gives the names under which `release` will undo them (kept in the state file)."""

    async def release(self, container_id: str, names: tuple[str, ...]) -> None:
        """Undo what `mount` gave; called once, after the container's processes are gone."""

    def adopt(self, container_id: str, names: tuple[str, ...]) -> None:
        """After an agent restart: this container still uses these names."""


class Sandbox(Protocol):
    """What a container needs to know of its sandbox, read at each create."""

    sandbox_id: str
    """The container of this id is the sandbox's own, which only waits; empty before CreateSandbox."""

    @property
    def ipc_path(self) -> str | None:
        """Path of the shared ipc namespace, None before CreateSandbox."""

    @property
    def uts_path(self) -> str | None:
        """Path of the shared uts namespace, None before CreateSandbox."""

    @property
    def guest_hooks(self) -> dict[str, list[dict[str, object]]]:
        """OCI hooks of the guest by kind (prestart, poststart, poststop), appended to the container's own."""


class Guard(Protocol):
    """Who sees to a container's secrets (`kata_agent.hub`). Both change the spec for crun in place."""

    async def prepare_store(self, spec: dict[str, Any]) -> None:
        """Before storages are mounted."""

    async def unseal(self, spec: dict[str, Any]) -> None:
        """After they were."""
