"""Two virtio-net devices, plugged into the running machine: set up by the host's calls, used from inside a container.

QEMU's user network needs no privileges: its gateway stands for this machine's loopback. Each device has one of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_host.vm.plug import open_monitor
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import types_pb2
from kata_protocols.status import StatusError
from kata_testing.guest import Guest, run_container
from kata_testing.loop import make_image

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

NICS = (0, 1)
ANSWER = b"hello from the host"


@asynccontextmanager
async def plugged(guest: Guest) -> AsyncIterator[list[str]]:
    """Both devices plugged in; their PCI paths in the guest. Other tests' devices may have any of the ports."""
    async with open_monitor(guest.qmp) as monitor:
        nics = []
        for number in NICS:
            user = {"net": f"10.2.{number}.0/24", "ipv6-prefix": f"fd00:{number + 1}::"}
            nics.append(await monitor.plug_nic(f"nic{number}", mac(number), user))
        yield [nic.address for nic in nics]
        for nic in nics:
            await monitor.unplug(nic)


def mac(number: int) -> str:
    return f"02:00:ca:fe:01:{number:02x}"


def interface(number: int, path: str) -> types_pb2.Interface:
    return types_pb2.Interface(
        name=f"eth{1 - number}",  # the kernel's names swapped
        hwAddr=mac(number),
        devicePath=path,
        mtu=1400,
        IPAddresses=[
            types_pb2.IPAddress(address=f"10.2.{number}.15", mask="24"),
            types_pb2.IPAddress(address=f"fd00:{number + 1}::15", mask="64", family=types_pb2.v6),
        ],
    )


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
    await writer.drain()
    writer.close()


def test_plugged_interfaces_are_named_and_carry_a_container_s_traffic(guest: Guest) -> None:
    async def drive() -> None:
        async with plugged(guest) as paths, guest.connect() as sandbox:
            client = sandbox.client
            for number in NICS:  # at once: the agent waits for what the guest has not found yet
                await client.update_interface(
                    pb.UpdateInterfaceRequest(interface=interface(number, paths[number]))
                )
            found = {item.hwAddr: item for item in (await client.list_interfaces()).Interfaces}
            assert [found[mac(number).upper()].name for number in NICS] == ["eth1", "eth0"]
            routes = pb.Routes(
                Routes=[
                    types_pb2.Route(dest="192.0.2.0/24", gateway="10.2.0.2", device="eth1"),
                    types_pb2.Route(
                        dest="2001:db8::/32", gateway="fd00:2::2", device="eth0", family=types_pb2.v6
                    ),
                ]
            )
            listed = (await client.update_routes(pb.UpdateRoutesRequest(routes=routes))).Routes
            assert {("192.0.2.0/24", "eth1"), ("2001:db8::/32", "eth0")} <= {
                (route.dest, route.device) for route in listed
            }
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with server:
                for number in NICS:
                    url = f"http://10.2.{number}.2:{port}/"
                    assert await run_container(sandbox, "wget", "-q", "-O", "-", url) == (0, ANSWER, b"")

    asyncio.run(drive())


def test_a_place_without_an_interface_is_told_after_the_wait_with_what_is_there(
    guest: Guest, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "disk", 1 << 20)

    async def ask(path: str) -> str:
        async with guest.connect() as sandbox:
            request = pb.UpdateInterfaceRequest(interface=interface(0, path))
            with pytest.raises(StatusError) as caught:
                await sandbox.client.update_interface(request)
            return str(caught.value)

    async def drive() -> list[str]:
        async with open_monitor(guest.qmp) as monitor:
            disk = await monitor.plug_disk("nonic", image)
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(ask(path)) for path in ("1e/00", disk.address)]
            await monitor.unplug(disk)
            return [call.result() for call in calls]

    nothing, other = asyncio.run(drive())
    late = "update interface: Timeout after 8s waiting for uevent network interface at PCI path"
    assert f"{late} 1e.0/00.0: there is no device 0000:00:1e.0" in nothing
    state = r"with virtio\d+, driver virtio_blk bound, it has no network interface"
    assert re.search(rf"{late} \w+\.0/00\.0: slot \S+ present {state}", other), other


@pytest.mark.parametrize("v6", [False, True])
def test_the_guest_s_iptables_set_and_read_rules(guest: Guest, *, v6: bool) -> None:
    network = "2001:db8::7/128" if v6 else "192.0.2.7/32"
    rules = [
        f"-A INPUT -s {network} -p tcp -m tcp --dport 15006 -j REJECT",
        f"-A INPUT -s {network} -m conntrack --ctstate INVALID -j DROP",
    ]
    nat = f"-A PREROUTING -s {network} -p tcp -j REDIRECT --to-ports 15006"
    data = "\n".join(["*nat", nat, "COMMIT", "*filter", *rules, "COMMIT", ""]).encode()

    async def drive() -> str:
        async with guest.connect() as sandbox:
            client = sandbox.client
            await client.set_iptables(pb.SetIPTablesRequest(is_ipv6=v6, data=data))
            found = (await client.get_iptables(pb.GetIPTablesRequest(is_ipv6=v6))).data.decode()
            with pytest.raises(StatusError, match=r"tables-restore --wait 5 failed: (?s:.*)line: 2"):
                await client.set_iptables(pb.SetIPTablesRequest(is_ipv6=v6, data=b"*filter\nnonsense\n"))
            clean = b"*nat\nCOMMIT\n*filter\nCOMMIT\n"
            await client.set_iptables(pb.SetIPTablesRequest(is_ipv6=v6, data=clean))
            assert "REDIRECT" not in (
                (await client.get_iptables(pb.GetIPTablesRequest(is_ipv6=v6))).data.decode()
            )
            return found

    found = asyncio.run(drive())
    assert nat in found
    for rule in rules:
        assert rule.partition(" -j ")[0] in found
