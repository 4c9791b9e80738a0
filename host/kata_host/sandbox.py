"""Sandboxes and containers in the order in which Kata's runtime makes its calls (spec of the host side, 3.3).

Check, CreateSandbox with the shared folder's storage, GetGuestDetails; for each container CreateContainer,
StartContainer, its streams, WaitProcess, SIGKILL, RemoveContainer; DestroySandbox last. Knows the client, not how
it is connected.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from signal import SIGKILL

from kata_host.client import AgentClient, is_not_found
from kata_host.message_json import fill_message
from kata_host.streams import Process
from kata_host.vm.base import GUEST_SHARE, SHARE_TAG
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import health_pb2, oci_pb2
from kata_protocols.status import StatusError

DESTROY_TIMEOUT_S = 10.0

Note = Callable[[str], object]


def make_id() -> str:
    """An id as Kata's tool makes them: 64 characters of 0-9a-f."""
    return secrets.token_hex(32)


def plan_share_storage() -> pb.Storage:
    """The storage with which CreateSandbox mounts the machine's shared folder."""
    return pb.Storage(driver="virtio-fs", source=SHARE_TAG, fstype="virtiofs", mount_point=GUEST_SHARE)


class Container(Process):
    """A container; as a `Process` it is its own init."""

    def __init__(self, client: AgentClient, container_id: str) -> None:
        super().__init__(client, container_id, container_id)

    async def start(self) -> None:
        """Let its process run."""
        await self.client.start_container(pb.StartContainerRequest(container_id=self.container_id))

    async def exec(
        self, process: dict[str, object], exec_id: str | None = None, ports: Mapping[str, int] | None = None
    ) -> Process:
        """Start another process inside; `ports` are those of `OwnStreams`."""
        request = pb.ExecProcessRequest(container_id=self.container_id, exec_id=exec_id or make_id())
        for field, port in (ports or {}).items():
            setattr(request, field, port)
        fill_message(request.process, process)
        await self.client.exec_process(request)
        return Process(self.client, self.container_id, request.exec_id)

    async def signal_all(self, number: int) -> None:
        """Send a signal to every process of the container; one that has ended is no error."""
        request = pb.SignalProcessRequest(container_id=self.container_id, exec_id="", signal=number)
        try:
            await self.client.signal_process(request)
        except StatusError as exc:
            if not is_not_found(exc):
                raise

    async def remove(self) -> None:
        """Take it away; one that is gone is no error."""
        try:
            await self.client.remove_container(pb.RemoveContainerRequest(container_id=self.container_id))
        except StatusError as exc:
            if not is_not_found(exc):
                raise


class Sandbox:
    """A sandbox that exists in the guest."""

    def __init__(self, client: AgentClient, sandbox_id: str, details: pb.GuestDetailsResponse) -> None:
        self.client = client
        self.sandbox_id = sandbox_id
        self.details = details

    async def create(
        self,
        spec: dict[str, object],
        container_id: str | None = None,
        *,
        storages: Sequence[pb.Storage] = (),
        devices: Sequence[pb.Device] = (),
        ports: Mapping[str, int] | None = None,
    ) -> Container:
        """Create a container from a JSON-shaped OCI specification; `ports` are those of `OwnStreams`."""
        message = oci_pb2.Spec()
        fill_message(message, spec)
        container = Container(self.client, container_id or make_id())
        request = pb.CreateContainerRequest(
            container_id=container.container_id, exec_id=container.exec_id, OCI=message, storages=storages,
            devices=devices,
        )  # fmt: skip
        for field, port in (ports or {}).items():
            setattr(request, field, port)
        await self.client.create_container(request)
        return container

    @asynccontextmanager
    async def container(
        self,
        spec: dict[str, object],
        container_id: str | None = None,
        *,
        storages: Sequence[pb.Storage] = (),
        devices: Sequence[pb.Device] = (),
    ) -> AsyncIterator[Container]:
        """A container that is killed and removed when the context ends, as Kata's runtime ends them."""
        container = await self.create(spec, container_id, storages=storages, devices=devices)
        try:
            yield container
        finally:
            await end_container(container)


async def end_container(container: Container) -> None:
    """Kill and remove it, as Kata's runtime does at the end of each container."""
    try:
        await container.signal_all(SIGKILL)
    except StatusError:
        pass  # Kata's runtime ignores it as well: removing is what counts
    await container.remove()


@asynccontextmanager
async def open_sandbox(
    client: AgentClient,
    sandbox_id: str | None = None,
    *,
    share: bool = True,
    hostname: str = "",
    note: Note = str,
) -> AsyncIterator[Sandbox]:
    """A sandbox on a fresh agent; destroyed at the end. `note` hears of each step."""
    await client.check(health_pb2.CheckRequest())
    note("first check")
    name = sandbox_id or make_id()
    request = pb.CreateSandboxRequest(sandbox_id=name, hostname=hostname[:64])
    if share:
        request.storages.append(plan_share_storage())
    await client.create_sandbox(request)
    details = await client.get_guest_details(
        pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
    )
    note("sandbox created")
    try:
        yield Sandbox(client, name, details)
    finally:
        await destroy_sandbox(client)


async def destroy_sandbox(client: AgentClient) -> None:
    """End the sandbox; what goes wrong is not the caller's matter, because the machine is stopped next."""
    try:
        await client.destroy_sandbox(timeout_s=DESTROY_TIMEOUT_S)
    except (StatusError, ConnectionLostError):
        pass
