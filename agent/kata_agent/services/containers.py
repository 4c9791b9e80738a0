"""Handlers of the containers' and processes' life cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kata_agent.containers import process_spec, user
from kata_agent.containers.registry import ContainerRequest
from kata_agent.errors import InvalidRequest
from kata_agent.mounts.storage.driver import GUEST_PULL
from kata_agent.processes.signals import MAX_SIGNAL
from kata_agent.services import oci
from kata_agent.services.storage import decode_storages
from kata_protocols.gen import agent_pb2
from kata_protocols.gen.empty_pb2 import Empty

if TYPE_CHECKING:
    from kata_agent.agent import Agent
    from kata_agent.containers.shared_mount import SharedMount


async def create_container(agent: Agent, request: agent_pb2.CreateContainerRequest) -> Empty:
    """Make a container, stopped before its program starts."""
    agent.check_confidential()
    if not request.HasField("OCI"):
        raise InvalidRequest(f"container {request.container_id!r}: the request has no OCI spec")
    shared_mounts = _decode_shared_mounts(request)
    spec, devices = await _attach_devices(agent, request, _decode_spec(request))
    try:
        await agent.containers.create(
            ContainerRequest(
                container_id=request.container_id,
                spec=await _add_cdi_devices(agent, spec),
                storages=decode_storages(request.storages),
                sandbox_pidns=request.sandbox_pidns,
                stream_ports=_stream_ports(request),
                devices=devices,
                shared_mounts=shared_mounts,
            )
        )
    except BaseException:
        if devices:
            await agent.release_devices(request.container_id, devices)
        raise
    agent.storages.keep(request.container_id)
    return Empty()


async def start_container(agent: Agent, request: agent_pb2.StartContainerRequest) -> Empty:
    """Let the container's program run."""
    await agent.containers.start(request.container_id)
    return Empty()


async def remove_container(agent: Agent, request: agent_pb2.RemoveContainerRequest) -> Empty:
    """Kill the container and undo everything that was made for it. Timeout 0 is no limit."""
    await agent.containers.remove(request.container_id, request.timeout or None)
    return Empty()


async def exec_process(agent: Agent, request: agent_pb2.ExecProcessRequest) -> Empty:
    """Run another program in a container."""
    if not request.HasField("process"):
        raise InvalidRequest(f"exec {request.exec_id!r}: the request has no process")
    process = oci.process(request.process)
    _add_names(process, request.string_user)
    await agent.containers.exec(request.container_id, request.exec_id, process, _stream_ports(request))
    return Empty()


async def signal_process(agent: Agent, request: agent_pb2.SignalProcessRequest) -> Empty:
    """Signal a process, or with an empty exec id all of the container's."""
    if request.signal > MAX_SIGNAL:
        raise InvalidRequest(f"signal {request.signal}: EINVAL: there are 1 to {MAX_SIGNAL}, and 0 to look")
    await agent.containers.signal(request.container_id, request.exec_id, request.signal)
    return Empty()


async def wait_process(agent: Agent, request: agent_pb2.WaitProcessRequest) -> agent_pb2.WaitProcessResponse:
    """Wait for a process's end. A killed process's status is the bare number of its signal."""
    exit_ = await agent.containers.wait(request.container_id, request.exec_id)
    return agent_pb2.WaitProcessResponse(status=exit_.signal or exit_.code or 0)


def _stream_ports(request: Any) -> tuple[int, ...]:
    """The three ports of a request, or none."""
    ports = (request.stdin_port, request.stdout_port, request.stderr_port)
    return ports if any(ports) else ()


async def _attach_devices(
    agent: Agent, request: agent_pb2.CreateContainerRequest, spec: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification with the request's devices, when it has some or speaks of addresses of theirs."""
    environment = (spec.get("process") or {}).get("env") or ()
    if not request.devices and not any(entry.startswith("PCIDEVICE_") for entry in environment):
        return spec, {}
    from kata_agent.services.devices import attach_devices  # only who has such a device pays for it

    return await attach_devices(agent, request, spec)


async def _add_cdi_devices(agent: Agent, spec: dict[str, Any]) -> dict[str, Any]:
    """The specification with what its annotations ask for, when that can be had."""
    if not any(key.startswith("cdi.k8s.io/") for key in spec.get("annotations") or {}):
        return spec
    from kata_agent.devices.cdi.inject import find_wanted  # only who has such a device pays for it

    wanted = find_wanted(spec)
    return await agent.cdi.inject(spec, wanted) if wanted else spec


def _decode_shared_mounts(request: agent_pb2.CreateContainerRequest) -> tuple[SharedMount, ...]:
    """Mounts of other containers; whom they are for is the new container, whatever `dst_ctr` says."""
    if not request.shared_mounts:
        return ()
    from kata_agent.containers import shared_mount

    found = tuple(
        shared_mount.SharedMount(one.name, one.src_ctr, one.src_path, one.dst_path)
        for one in request.shared_mounts
    )
    for one in found:
        shared_mount.check(one)
    return found


def _decode_spec(request: agent_pb2.CreateContainerRequest) -> dict[str, Any]:
    spec = oci.spec(request.OCI)
    if request.HasField("string_user"):
        _add_names(spec.setdefault("process", dict(process_spec.DEFAULT)), request.string_user)
    if any(storage.driver == GUEST_PULL for storage in request.storages):
        from kata_agent.mounts.storage import guest_pull

        if guest_pull.is_sandbox(spec.get("annotations") or {}):
            spec["process"] = guest_pull.read_pause_process()
    return spec


def _add_names(process: dict[str, Any], names: agent_pb2.StringUser) -> None:
    """Users in words travel with the process until the container's root is there to look them up in."""
    if names.uid or names.gid or names.additionalGids:
        process[user.KEY] = (names.uid, names.gid, list(names.additionalGids))


HANDLERS = {
    "CreateContainer": create_container,
    "StartContainer": start_container,
    "RemoveContainer": remove_container,
    "ExecProcess": exec_process,
    "SignalProcess": signal_process,
    "WaitProcess": wait_process,
}
