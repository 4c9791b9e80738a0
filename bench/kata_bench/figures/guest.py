"""Figures from inside a booted guest of two CPUs: boot, memory idle, with a network, after twenty
containers, creates at once.

Memory is read by a container that sees the guest's /proc: `smaps_rollup` of PID 1 and of the agent. So the agent is not
quite idle when its idle memory is read: it has made the one container that reads.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from kata_bench import container
from kata_bench.native import ROOT, check
from kata_bench.result import Effort, Result, median_result
from kata_bench.rollup import Memory, parse_rollup
from kata_bench.wire import AGENT, Client, connect
from kata_host.vm.base import GuestFiles, VmConfig
from kata_host.vm.qemu import QemuVm, launch
from kata_protocols.gen import agent_pb2, types_pb2
from kata_protocols.gen.empty_pb2 import Empty

_GUEST = ROOT / "build" / "guest"
_VSOCK = ROOT / "build" / "tools" / "vhost-device-vsock"
_CALL_TIMEOUT_S = 120.0
_AT_ONCE = 8
_USED = 20
_INTERFACES = 2
# The guest has no root for containers but its own: busybox and its applets are there.
_ROOTFS = "/"
_READ = (
    "for pid in 1 $(cat /guest-proc/1/task/1/children); do name=$(cat /guest-proc/$pid/comm); "
    'case $pid:$name in 1:*|*:kata-agent) echo "process $name"; cat /guest-proc/$pid/smaps_rollup;; esac; done'
)


def read_memory(client: Client, name: str) -> Memory:
    """What PID 1 and the agent have now. RuntimeError when they are not what was read."""
    request = container.make_request(name, _ROOTFS, ["sh", "-c", _READ], guest_proc=True)
    container.create(client, request)
    container.start(client, name)
    text = b"".join(container.read_output(client, name)).decode()
    container.wait(client, name)
    container.remove(client, name)
    seen = [line.split()[1] for line in text.splitlines() if line.startswith("process ")]
    if len(seen) != 2 or seen[1] != "kata-agent":
        raise RuntimeError(f"expected PID 1 and kata-agent, read memory of: {', '.join(seen) or 'nothing'}")
    return parse_rollup(text)


def set_up_network(client: Client, paths: list[str]) -> None:
    """What a host asks for before it creates its sandbox: each interface by its PCI path, and a default route."""
    for number, path in enumerate(paths):
        address = types_pb2.IPAddress(address=f"10.2.{number}.15", mask="24")
        other = types_pb2.IPAddress(address=f"fd00:{number + 1}::15", mask="64", family=types_pb2.v6)
        wanted = types_pb2.Interface(name=f"net{number}", devicePath=path, IPAddresses=[address, other])
        update = agent_pb2.UpdateInterfaceRequest(interface=wanted)
        client.call(AGENT, "UpdateInterface", update, types_pb2.Interface)
    routes = agent_pb2.Routes(Routes=[types_pb2.Route(gateway="10.2.0.2", device="net0")])
    client.call(AGENT, "UpdateRoutes", agent_pb2.UpdateRoutesRequest(routes=routes), agent_pb2.Routes)


def measure_memory(client: Client, effort: Effort, paths: list[str]) -> list[Result]:
    """The memory figures in MB; `paths` are the PCI paths of the network devices."""
    idle = read_memory(client, "reader0")
    set_up_network(client, paths)
    networked = read_memory(client, "reader-networked")
    for number in range(effort.pick(_USED, 2)):
        container.run_to_end(client, container.make_request(f"use{number}", _ROOTFS, ["true"]))
    used = read_memory(client, "reader1")
    return [
        Result("idle-proportional", idle.proportional_mb, note="with the one container that reads it"),
        Result("idle-anonymous", idle.anonymous_mb),
        Result("networked-proportional", networked.proportional_mb, note="with that container, too"),
        Result("networked-anonymous", networked.anonymous_mb),
        Result("used-proportional", used.proportional_mb),
        Result("used-anonymous", used.anonymous_mb),
    ]


def time_one(client: Client, name: str) -> float:
    """Seconds of one create and start."""
    request = container.make_request(name, _ROOTFS, ["sleep", "1000"])
    begin = time.perf_counter()
    container.create(client, request)
    container.start(client, name)
    return time.perf_counter() - begin


def time_at_once(client: Client, names: list[str]) -> float:
    """Seconds until all are started: every create is sent before the first answer, each start when its create is
    done."""
    requests = {name: container.make_request(name, _ROOTFS, ["sleep", "1000"]) for name in names}
    creating: dict[int, str] = {}
    starting: set[int] = set()
    begin = time.perf_counter()
    for name, request in requests.items():
        creating[client.send(AGENT, "CreateContainer", request)] = name
    while creating or starting:
        stream, payload = client.receive("create or start")
        Empty.FromString(payload)
        if stream in creating:
            start = agent_pb2.StartContainerRequest(container_id=creating.pop(stream))
            starting.add(client.send(AGENT, "StartContainer", start))
        else:
            starting.remove(stream)
    return time.perf_counter() - begin


def measure_at_once(client: Client, effort: Effort) -> list[Result]:
    """`vm-create-start` in ms and `vm-at-once`."""
    ones: list[float] = []
    together: list[float] = []
    for round_number in range(effort.pick(4, 1)):
        names = [f"one{round_number}-{number}" for number in range(_AT_ONCE)]
        ones += [time_one(client, name) for name in names]
        end_all(client, names)
        names = [f"all{round_number}-{number}" for number in range(_AT_ONCE)]
        together.append(time_at_once(client, names))
        end_all(client, names)
    one = median_result("vm-create-start", [seconds * 1e3 for seconds in ones])
    samples = [seconds * 1e3 / (_AT_ONCE * one.value) for seconds in together]
    return [one, median_result("vm-at-once", samples)]


def end_all(client: Client, names: list[str]) -> None:
    """Kill and remove these containers."""
    for name in names:
        container.kill(client, name)


def measure_through(address: str, effort: Effort, paths: list[str]) -> list[Result]:
    """Everything that is measured by calls, in a guest that is ready; blocks."""
    with Client(connect(address, _CALL_TIMEOUT_S)) as client:
        check(client)
        container.create_sandbox(client)
        return [*measure_memory(client, effort, paths), *measure_at_once(client, effort)]


async def measure_in_vm(effort: Effort) -> list[Result]:
    """Boot, measure, and leave nothing behind."""
    config = VmConfig(
        guest=GuestFiles(
            kernel=_GUEST / "vmlinuz",
            initrd=_GUEST / "initrd.img",
            vsock_program=_VSOCK if _VSOCK.exists() else None,
        )
    )
    begin = time.perf_counter()
    async with launch(config) as vm:
        boot = Result(
            "vm-boot", time.perf_counter() - begin, note=f"{vm.accelerator.name}: {vm.accelerator.reason}"
        )
        paths = [await plug_interface(vm, number) for number in range(_INTERFACES)]
        return [boot, *await asyncio.to_thread(measure_through, vm.address, effort, paths)]


async def plug_interface(vm: QemuVm, number: int) -> str:
    """Plug in a virtio-net device with a user network of its own; its PCI path."""
    backend = {"type": "user", "id": f"net{number}", "net": f"10.2.{number}.0/24"}
    await vm.execute("netdev_add", {**backend, "ipv6-prefix": f"fd00:{number + 1}::"})
    device = {"driver": "virtio-net-pci", "netdev": f"net{number}", "id": f"nic{number}"}
    await vm.execute("device_add", {**device, "bus": f"rp{number}"})
    buses: Any = await vm.execute("query-pci")
    slot = next(item["slot"] for item in buses[0]["devices"] if item["qdev_id"] == f"rp{number}")
    return f"{slot:02x}/00"


def measure_guest(effort: Effort) -> list[Result]:
    """All figures of the group `vm`."""
    return asyncio.run(measure_in_vm(effort))
