"""What Kata's two runtimes do, call by call in their order, against a guest: the Go one and runtime-rs.

Follows the spec of the host side, "Go runtime: order of RPCs" and "runtime-rs: order of RPCs". Each has a machine of
its own, because the Go one ends it. Every reply is looked at where a host looks at it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kata_host.client import AgentClient
from kata_host.connect import connect
from kata_host.message_json import fill_message
from kata_host.sandbox import plan_share_storage
from kata_host.spec import ProcessPlan, plan_process
from kata_host.vm.plug import open_monitor
from kata_protocols.aio.client import ConnectionLostError
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import oci_pb2, types_pb2
from kata_protocols.status import Code, StatusError
from kata_testing.guest import Guest, boot_guest, follow_console, plan

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

DEADLINE_S = 120.0
CHUNK = 32768
COLD_MAC, HOT_MAC = "02:00:ca:fe:02:00", "02:00:ca:fe:02:01"
SHM = pb.Storage(
    driver="ephemeral",
    source="shm",
    fstype="tmpfs",
    mount_point="/run/kata-containers/sandbox/shm",
    options=["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
)


@pytest.fixture
def machine() -> Iterator[Guest]:
    with (
        tempfile.TemporaryDirectory(prefix="kata-") as folder,
        boot_guest(Path(folder), options=("--nic", COLD_MAC)) as guest,
    ):
        yield guest


def spec(*args: str, **more: object) -> oci_pb2.Spec:
    """As a host sends it: /dev/shm is the sandbox's, limits of pids and devices are taken out."""
    message = oci_pb2.Spec()
    fill_message(message, plan(*args, **more))  # type: ignore[arg-type]
    for mount in message.Mounts:
        if mount.destination == "/dev/shm":
            mount.CopyFrom(
                oci_pb2.Mount(destination="/dev/shm", type="bind", source=SHM.mount_point, options=["rbind"])
            )
    return message


async def read_to_end(client: AgentClient, container_id: str, exec_id: str, *, stderr: bool = False) -> bytes:
    """A stdio loop: until an error, which is the end."""
    read = client.read_stderr if stderr else client.read_stdout
    pieces = []
    while True:
        request = pb.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=CHUNK)
        try:
            answer = await read(request, timeout_s=None)
        except StatusError as error:
            if "eof" not in error.message.lower():
                raise
            return b"".join(pieces)
        assert answer.data, "an empty success would make a host ask for ever"
        pieces.append(answer.data)


async def watch_oom(client: AgentClient, seen: list[str]) -> None:
    """The event loop that runs beside everything."""
    while True:
        seen.append((await client.get_oom_event(timeout_s=None)).container_id)


async def monitor(client: AgentClient) -> None:
    """One miss and a host gives the sandbox up."""
    while True:
        await client.check(timeout_s=30)
        await asyncio.sleep(0.2)  # the host's own pace, not a wait for anything


@asynccontextmanager
async def beside(*loops: object) -> AsyncIterator[None]:
    """What goes on until the script is done; a loop that fails fails the script."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]  # type: ignore[arg-type]
        yield
        for task in tasks:
            task.cancel()


def interface(name: str, mac: str, address: str, path: str = "") -> pb.UpdateInterfaceRequest:
    return pb.UpdateInterfaceRequest(
        interface=types_pb2.Interface(
            device=name,
            name=name,
            hwAddr=mac,
            mtu=1500,
            devicePath=path,
            IPAddresses=[types_pb2.IPAddress(address=address, mask="24")],
        )
    )


ROUTES = pb.Routes(
    Routes=[
        types_pb2.Route(dest="10.0.2.0/24", device="eth0", scope=253),
        types_pb2.Route(gateway="10.0.2.2", device="eth0"),
    ]
)
NEIGHBORS = pb.AddARPNeighborsRequest(
    neighbors=pb.ARPNeighbors(
        ARPNeighbors=[
            types_pb2.ARPNeighbor(
                toIPAddress=types_pb2.IPAddress(address="10.0.2.77"),
                device="eth0",
                lladdr="02:00:00:00:00:77",
                state=0x80,
            )
        ]
    )
)


async def prepare_network(client: AgentClient, guest: Guest) -> None:
    """Before there is a sandbox: the interface that was there at boot, and one that is plugged meanwhile."""
    answer = await client.update_interface(interface("eth0", COLD_MAC, "10.0.2.15"))
    assert answer.name == "eth0"
    async with open_monitor(guest.qmp) as control:
        hot = await control.plug_nic("hotnic", HOT_MAC, {"net": "10.3.0.0/24"})
    await client.update_interface(interface("eth1", HOT_MAC, "10.3.0.15", hot.address))


async def go_runtime(guest: Guest) -> None:
    """A pod of one container, from the first call to the last."""
    oom: list[str] = []
    client = await connect(guest.address, 45.0)
    async with client:
        await client.check(timeout_s=30)
        await prepare_network(client, guest)
        listed = await client.update_routes(pb.UpdateRoutesRequest(routes=ROUTES))
        assert "10.0.2.2" in {route.gateway for route in listed.Routes}
        await client.add_arp_neighbors(NEIGHBORS)
        await client.create_sandbox(
            pb.CreateSandboxRequest(
                sandbox_id="pod",
                hostname="pod-host",
                dns=["nameserver 192.0.2.53"],
                storages=[plan_share_storage(), SHM],
                kernel_modules=[pb.KernelModule(name="ip_tables")],
            )
        )
        details = await client.get_guest_details(
            pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
        )
        assert details.mem_block_size_bytes
        assert details.agent_details.supports_seccomp
        async with beside(watch_oom(client, oom), monitor(client)):
            await go_container(client)
        await client.destroy_sandbox()
        with suppress(ConnectionLostError, StatusError):  # the guest goes, and with it the connection
            await client.check(timeout_s=30)
    assert oom == []


async def go_container(client: AgentClient) -> None:
    """Created, looked at, executed in, changed, stopped, removed."""
    cid = "pod-main"
    script = "echo up; hostname; head -n 1; echo bye >&2; exit 7"
    await client.create_container(
        pb.CreateContainerRequest(container_id=cid, exec_id=cid, OCI=spec("sh", "-c", script))
    )
    await client.online_cpu_mem(pb.OnlineCPUMemRequest(wait=False, nb_cpus=0, cpu_only=False))
    await client.update_ephemeral_mounts(pb.UpdateEphemeralMountsRequest())
    await client.start_container(pb.StartContainerRequest(container_id=cid))
    async with asyncio.TaskGroup() as group:
        output = group.create_task(read_to_end(client, cid, cid))
        errors = group.create_task(read_to_end(client, cid, cid, stderr=True))
        await go_exec(client, cid)
        await go_on_demand(client, cid)
        await client.write_stdin(pb.WriteStreamRequest(container_id=cid, exec_id=cid, data=b"line\n"))
        await client.close_stdin(pb.CloseStdinRequest(container_id=cid, exec_id=cid))
    said = output.result().decode().splitlines()
    assert said[0] == "up"
    assert said[1] == "pod-host"
    assert said[-1] == "line"
    assert errors.result() == b"bye\n"
    waited = pb.WaitProcessRequest(container_id=cid, exec_id=cid)  # only when both streams have ended
    assert (await client.wait_process(waited)).status == 7
    kill = pb.SignalProcessRequest(container_id=cid, exec_id="", signal=9)
    with suppress(StatusError):
        await client.signal_process(kill)
    started = time.monotonic()
    assert (await client.wait_process(waited)).status == 7
    assert time.monotonic() - started < 5, "a wait for what has ended must answer at once"
    await client.remove_container(pb.RemoveContainerRequest(container_id=cid, timeout=0))
    await client.remove_stale_virtiofs_share_mounts()


async def go_exec(client: AgentClient, cid: str) -> None:
    """The Go runtime's process has five fields alone: what is missing is the container's."""
    process = oci_pb2.Process(
        Terminal=True, User=oci_pb2.User(), Args=["sh", "-c", "stty size; exit 3"], Env=["PATH=/bin"], Cwd="/"
    )
    await client.exec_process(pb.ExecProcessRequest(container_id=cid, exec_id="exec-1", process=process))
    with suppress(StatusError):  # it may be done already
        await client.tty_win_resize(
            pb.TtyWinResizeRequest(container_id=cid, exec_id="exec-1", row=40, column=120)
        )
    await read_to_end(client, cid, "exec-1")
    assert (await client.wait_process(pb.WaitProcessRequest(container_id=cid, exec_id="exec-1"))).status == 3


async def go_on_demand(client: AgentClient, cid: str) -> None:
    """What a running pod is asked."""
    stats = await client.stats_container(pb.StatsContainerRequest(container_id=cid))
    assert stats.cgroup_stats.memory_stats.usage.usage > 0
    assert {"anon", "file", "inactive_file", "pgfault"} <= set(stats.cgroup_stats.memory_stats.stats)
    limit = oci_pb2.LinuxResources(Memory=oci_pb2.LinuxMemory(Limit=64 << 20))
    await client.update_container(pb.UpdateContainerRequest(container_id=cid, resources=limit))
    stats = await client.stats_container(pb.StatsContainerRequest(container_id=cid))
    assert stats.cgroup_stats.memory_stats.usage.limit == 64 << 20
    await client.pause_container(pb.PauseContainerRequest(container_id=cid))
    await client.resume_container(pb.ResumeContainerRequest(container_id=cid))
    families = {
        family.name for family in text_string_to_metric_families((await client.get_metrics()).metrics)
    }
    assert {"kata_agent_threads", "kata_guest_meminfo"} <= families
    tables = (await client.get_iptables(pb.GetIPTablesRequest())).data
    await client.set_iptables(pb.SetIPTablesRequest(data=tables or b"*filter\nCOMMIT\n"))
    names = {item.name for item in (await client.list_interfaces()).Interfaces}
    assert {"lo", "eth0", "eth1"} <= names
    assert (await client.list_routes()).Routes
    volume = await client.get_volume_stats(pb.VolumeStatsRequest(volume_guest_path=SHM.mount_point))
    assert volume.usage[0].total == 64 << 20


def test_the_go_runtime_s_calls_in_their_order(machine: Guest) -> None:
    async def body() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await go_runtime(machine)
            async with aclosing(follow_console(machine.console)) as lines:
                async for line in lines:  # the test's deadline is that of this line
                    if line == "kata-agent shutdown complete":
                        break

    asyncio.run(body())


async def runtime_rs(guest: Guest) -> None:
    """runtime-rs: init by an empty exec id, standard input ended by an empty write, no DestroySandbox."""
    oom: list[str] = []
    async with await connect(guest.address, 3.0) as client:
        await client.check(timeout_s=90)
        await client.version()
        await prepare_network(client, guest)
        await client.add_arp_neighbors(NEIGHBORS)
        await client.update_routes(pb.UpdateRoutesRequest(routes=ROUTES))
        share = plan_share_storage()
        share.options.append("nodev")
        await client.create_sandbox(pb.CreateSandboxRequest(sandbox_id="pod", storages=[share, SHM]))
        await client.get_guest_details(pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True))
        async with beside(watch_oom(client, oom), monitor(client)):
            await client.online_cpu_mem(pb.OnlineCPUMemRequest(wait=False, nb_cpus=2, cpu_only=False))
            cid = "rs-main"
            request = pb.CreateContainerRequest(
                container_id=cid, exec_id="", OCI=spec("sh", "-c", "wc -c; exit 5")
            )
            await client.create_container(request)
            await client.start_container(pb.StartContainerRequest(container_id=cid))
            await rs_exec(client, cid)
            for data in (b"x" * 8192, b"y" * 100, b""):
                await client.write_stdin(pb.WriteStreamRequest(container_id=cid, exec_id="", data=data))
            assert (await read_to_end(client, cid, "")).split() == [b"8292"]
            wait = pb.WaitProcessRequest(container_id=cid, exec_id="")
            assert (await client.wait_process(wait)).status == 5
            with suppress(StatusError):
                await client.signal_process(pb.SignalProcessRequest(container_id=cid, exec_id="", signal=9))
            await client.remove_container(pb.RemoveContainerRequest(container_id=cid))
        await checklist(client)


async def rs_exec(client: AgentClient, cid: str) -> None:
    """containerd's own exec id and the whole process object."""
    process = oci_pb2.Process()
    fill_message(process, plan_process(ProcessPlan(["id", "-u"])))
    await client.exec_process(pb.ExecProcessRequest(container_id=cid, exec_id="c0ffee", process=process))
    assert await read_to_end(client, cid, "c0ffee") == b"0\n"
    assert (await client.wait_process(pb.WaitProcessRequest(container_id=cid, exec_id="c0ffee"))).status == 0


async def checklist(client: AgentClient) -> None:
    """What hosts rely on when things are gone already: an error that says so."""
    gone = (
        client.remove_container(pb.RemoveContainerRequest(container_id="gone")),
        client.signal_process(pb.SignalProcessRequest(container_id="gone", signal=9)),
    )
    for call in gone:
        with pytest.raises(StatusError, match=r"not exist|not found"):
            await call
    await client.remove_stale_virtiofs_share_mounts()
    with pytest.raises(StatusError) as caught:
        await client.caller.call(
            type(AgentClient.check.method)(
                "grpc.AgentService", "NoSuchCall", pb.GetMetricsRequest, pb.Metrics
            ),
            pb.GetMetricsRequest(),
            timeout_s=10,
        )
    assert caught.value.code in {Code.UNIMPLEMENTED, Code.NOT_FOUND}
    big = pb.CopyFileRequest(
        path="/run/kata-containers/shared/containers/big", data=os.urandom((4 << 20) - 4096)
    )
    big.file_size = len(big.data)
    big.file_mode = 0o100644
    await client.copy_file(big)


def test_runtime_rs_s_calls_in_their_order(machine: Guest) -> None:
    async def body() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await runtime_rs(machine)

    asyncio.run(body())
