"""PCI devices behind the machine's IOMMU, plugged and pulled in a running guest: by VFIO, by its kernel, by CDI.

A display device stands for a GPU. Requests are those of Kata's runtime: group and numbers are the host's. QEMU keeps a
display's console, and with it the device's memory, for ever: one is plugged only once in a machine's life.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kata_host.connect import open_caller
from kata_host.sandbox import Container, Sandbox, end_container
from kata_host.sandbox_service import SandboxService
from kata_host.spec import BindMount, ProcessPlan, plan_process
from kata_host.vm.plug import Monitor, Plugged, open_monitor
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import sandbox_pb2
from kata_protocols.status import StatusError
from kata_testing.guest import Guest, plan, read_all
from kata_testing.guest_chaos import start_killer

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

HOST_GROUP = "/dev/vfio/17"
HOST_ADDRESS = "0000:65:00.0"
PULL_TIMEOUT_S = 60.0
SYSFS = BindMount("/sys", "/guest/sys", ("rbind", "ro"))
RUN = BindMount("/run", "/guest/run", ("bind", "rw"))
LOOK = """
group=$(ls /dev/vfio | grep -v vfio)
for one in /guest/sys/kernel/iommu_groups/$group/devices/*; do cat $one/class; basename $(readlink $one/driver); done
exec 3<>/dev/vfio/$group && echo opened; echo $PCIDEVICE_VENDOR_GPU; ls /dev/vfio
"""
CDI = """\
---
cdiVersion: 0.5.0
kind: vendor.com/gpu
containerEdits:
  env: [GPU_READY=yes]
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/vda
"""


def request(kind: str, *devices: Plugged) -> pb.Device:
    """As Kata's runtime sends a group."""
    options = [f"{HOST_ADDRESS[:-1]}{number}={device.address}" for number, device in enumerate(devices)]
    return pb.Device(id="17", type=kind, container_path=HOST_GROUP, options=options)


def with_group(script: str, **more: Any) -> dict[str, object]:
    """A specification that names the host's nodes."""
    env = [f"PCIDEVICE_VENDOR_GPU={HOST_ADDRESS}"]
    spec: dict[str, Any] = plan("sh", "-c", script, binds=[SYSFS], masked=False, env=env, **more)
    spec["linux"]["devices"] = [
        {"path": "/dev/vfio/vfio", "type": "c", "major": 10, "minor": 196, "fileMode": 0o666},
        {"path": HOST_GROUP, "type": "c", "major": 241, "minor": 7, "fileMode": 0o600},
    ]
    return spec


async def run_with(sandbox: Sandbox, spec: dict[str, object], *devices: pb.Device) -> list[str]:
    """The lines that a container with the devices prints."""
    async with sandbox.container(spec, devices=devices) as container:
        await container.start()
        output, errors = await read_all(container), await read_all(container, stderr=True)
        assert await container.wait(30) == 0, errors.decode()
    return output.decode().splitlines()


async def read_driver(sandbox: Sandbox, address: str) -> str:
    """The driver of a function after a container has gone."""
    script = f"basename $(readlink /guest/sys/bus/pci/devices/{address}/driver) 2>/dev/null || echo none"
    return (await run_with(sandbox, plan("sh", "-c", script, binds=[SYSFS])))[0]


def test_function_is_opened_from_within_a_container_and_given_back(guest: Guest) -> None:
    async def run(sandbox: Sandbox, monitor: Monitor) -> None:
        device = await monitor.plug_pci("card", "edu")
        await use_by_vfio(sandbox, device, "0x00ff00")
        await monitor.unplug(device)

    asyncio.run(drive(guest, run))


def test_function_is_pulled_while_its_container_runs(guest: Guest) -> None:
    async def run(sandbox: Sandbox, monitor: Monitor) -> None:
        device = await monitor.plug_pci("card", "edu")
        spec = with_group("exec 3<>/dev/vfio/$(ls /dev/vfio | grep -v vfio) && echo opened; exec sleep 1000")
        async with sandbox.container(spec, devices=[request("vfio-pci", device)]) as container:
            await container.start()
            assert await anext(aiter(container.read_stdout())) == b"opened\n"
            await monitor.unplug(device)
        await monitor.unplug(await monitor.plug_pci("card", "edu"))

    asyncio.run(drive(guest, run))


def test_last_of_two_containers_gives_it_back_also_after_the_agent_was_killed(guest: Guest) -> None:
    async def run(sandbox: Sandbox, monitor: Monitor) -> None:
        device = await monitor.plug_pci("card", "edu")
        asked = request("vfio-pci", device)
        address = (await run_with(sandbox, with_group("echo $PCIDEVICE_VENDOR_GPU"), asked))[0]
        first = await sandbox.create(with_group("sleep 1000"), devices=[asked])
        second = await sandbox.create(with_group("sleep 1000"), devices=[asked])
        async with start_killer(guest) as killer:
            await killer.kill()
        async with guest.connect(reconnect=True) as again:
            for container in (first, second):
                assert await read_driver(again, address) == "vfio-pci"
                await end_container(Container(again.client, container.container_id))
            assert await read_driver(again, address) == "none"
        await monitor.unplug(device)

    asyncio.run(drive(guest, run))


def test_function_without_room_for_its_memory_is_refused_at_once(guest: Guest) -> None:
    async def run(sandbox: Sandbox, monitor: Monitor) -> None:
        device = await monitor.plug_pci("big", "pci-testdev", {"membar": 1 << 36})
        with pytest.raises(StatusError, match=r"PCI device 0000:\S+: no room for BAR 2: give the port"):
            await sandbox.create(with_group("true"), devices=[request("vfio-pci-gk", device)])
        await monitor.unplug(device)

    asyncio.run(drive(guest, run))


def test_gpu_is_used_by_vfio_and_then_by_the_guest_s_kernel_and_cdi(guest: Guest) -> None:
    async def run(sandbox: Sandbox, monitor: Monitor) -> None:
        async with sandbox.container(plan("sleep", "1000", binds=[SYSFS])) as watcher:
            await watcher.start()
            before = await list_functions(watcher)
            device = await monitor.plug_pci("gpu", "bochs-display")
            await use_by_vfio(sandbox, device, "0x038000")
            assert len(await list_functions(watcher) - before) == 1
            await use_by_cdi(sandbox, device)
            await pull(guest, monitor, device)
            assert await list_functions(watcher) == before

    asyncio.run(drive(guest, run))


async def list_functions(watcher: Container) -> set[bytes]:
    """The PCI functions that a container which runs sees."""
    process = await watcher.exec(plan_process(ProcessPlan(["ls", "/guest/sys/bus/pci/devices"])))
    return set((await read_all(process)).split())


async def use_by_vfio(sandbox: Sandbox, device: Plugged, wanted: str) -> None:
    said = await run_with(sandbox, with_group(LOOK), request("vfio-pci", device))
    kind, bound, opened, address, group, container = said
    assert (kind, bound, opened) == (wanted, "vfio-pci", "opened")
    assert address.startswith("0000:")
    assert address != HOST_ADDRESS
    assert group.isdecimal()
    assert container == "vfio"
    assert await read_driver(sandbox, address) == "none"


async def use_by_cdi(sandbox: Sandbox, device: Plugged) -> None:
    """The container waits for the file that the vendor's program writes when it has seen the device."""
    script = (
        "cat /guest/sys/bus/pci/devices/$PCIDEVICE_VENDOR_GPU/class; echo $GPU_READY; stat -c %F /dev/gpu0"
    )
    env = [f"PCIDEVICE_VENDOR_GPU={HOST_ADDRESS}"]
    spec: dict[str, Any] = plan("sh", "-c", script, binds=[SYSFS], env=env)
    spec["annotations"] = {"cdi.k8s.io/vfio17": "vendor.com/gpu=0"}
    async with asyncio.TaskGroup() as group:
        said = group.create_task(run_with(sandbox, spec, request("vfio-pci-gk", device)))
        await write_cdi(sandbox, "mkdir -p /guest/run/cdi; cat > /guest/run/cdi/gpu.yaml")
    assert said.result() == ["0x038000", "yes", "block special file"]
    await write_cdi(sandbox, "rm -r /guest/run/cdi")


async def pull(guest: Guest, monitor: Monitor, device: Plugged) -> None:
    """Pull a device out, and wait until the guest's agent tells that it has gone.

    QEMU tells nothing of a display device, whose console it keeps for ever.
    """
    async with asyncio.timeout(PULL_TIMEOUT_S), await open_caller(guest.address) as client:
        service = SandboxService(client)
        cursor = (await service.poll_events(sandbox_pb2.PollEventsRequest(only_new=True))).cursor
        await monitor.execute("device_del", {"id": device.id})
        gone = False
        while not gone:
            request = sandbox_pb2.PollEventsRequest(cursor=cursor, wait_ms=20000)
            answer = await service.poll_events(request)
            cursor = answer.cursor
            gone = any(
                event.text.startswith("PCI device") and ": gone" in event.text for event in answer.events
            )


async def drive(guest: Guest, work: Any) -> None:
    async with open_monitor(guest.qmp) as monitor, guest.connect() as sandbox:
        await work(sandbox, monitor)


async def write_cdi(sandbox: Sandbox, script: str) -> None:
    async with sandbox.container(plan("sh", "-c", script, binds=[RUN])) as container:
        await container.start()
        await container.write_stdin(CDI.encode())
        await container.close_stdin()
        assert await container.wait(30) == 0, (await read_all(container, stderr=True)).decode()


def test_refusals_name_the_device_and_leave_nothing(guest: Guest) -> None:
    async def run(sandbox: Sandbox, monitor: Monitor) -> None:
        device = await monitor.plug_pci("card", "edu")
        absent = Plugged("none", "1e/00")
        for asked, text in (
            (
                request("vfio-pci", device, absent),
                "Timeout after .*waiting for uevent PCI device 1e.0/00.0: ",
            ),
            (
                pb.Device(id="1", type="vfio-pci", container_path="/x", options=["y"]),
                "Malformed VFIO PCI option 'y'",
            ),
            (request("vfio-pci"), "names no function"),
            (request("vfio-ap", device), "Failed to find the device handler vfio-ap: it is of s390x"),
        ):
            with pytest.raises(StatusError, match=text):
                await sandbox.create(with_group("true"), devices=[asked])
        nameless = with_group("true")
        nameless["linux"]["devices"] = []  # type: ignore[index]
        with pytest.raises(StatusError, match="Missing devices in OCI spec: /dev/vfio/17"):
            await sandbox.create(nameless, devices=[request("vfio-pci", device)])
        async with sandbox.container(
            with_group("sleep 1000"), devices=[request("vfio-pci", device)]
        ) as container:
            with pytest.raises(
                StatusError, match=r"is used as vfio-pci by .*: it cannot be vfio-pci-gk as well"
            ):
                await sandbox.create(with_group("true"), devices=[request("vfio-pci-gk", device)])
            assert container
        await monitor.unplug(device)

    asyncio.run(drive(guest, run))
