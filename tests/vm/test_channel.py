"""The channel without vsock: the life cycle's core over it, restarts of either side, a port that is plugged late."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_host.connect import connect
from kata_host.sandbox import Container
from kata_host.vm.console import find_trouble
from kata_host.vm.plug import open_monitor
from kata_protocols.aio.address import SerialAddress
from kata_protocols.aio.client import Client, ConnectionLostError
from kata_protocols.aio.dial import connect_once
from kata_protocols.aio.mux import Mux
from kata_protocols.aio.serial import open_channel
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import health_pb2
from kata_protocols.services import AGENT_SERVICE, HEALTH_SERVICE
from kata_protocols.ttrpc.connection import Connection
from kata_protocols.ttrpc.state import Role
from kata_protocols.yamux.frame import DATA, SYN, WINDOW, pack
from kata_testing.channel import open_client
from kata_testing.guest import (
    TOOL,
    Guest,
    boot_guest,
    create_shared_sandbox,
    plan,
    read_agent_life,
    read_all,
    run_container,
)
from kata_testing.guest_chaos import start_killer
from vm import test_container as containers
from vm import test_guest as guests

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

TIMEOUT_S = 90.0
CHECK = HEALTH_SERVICE.methods["Check"]
PORT = "late.channel.0"  # of the session's machine, which has vsock
CORE: tuple[Callable[[Guest], None], ...] = (
    guests.test_health_service_answers,
    guests.test_the_share_shows_what_the_host_writes,
    containers.test_output_errors_and_exit_status_pass_through,
    containers.test_every_byte_of_stdin_arrives_and_comes_back,
    containers.test_a_killed_process_has_the_bare_number_of_its_signal_as_status,
    containers.test_end_of_output_is_an_error_and_never_empty_data,
    containers.test_exec_runs_beside_the_first_process_with_its_own_streams_and_status,
    containers.test_a_terminal_has_the_size_it_is_told_and_hears_of_changes,
    containers.test_eight_containers_made_at_once_all_run,
    containers.test_a_removed_container_is_gone_and_its_id_is_free_again,
)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine without vsock."""
    with boot_guest(tmp_path_factory.mktemp("s", numbered=True), options=("--channel", "serial")) as guest:
        asyncio.run(create_shared_sandbox(guest))
        yield guest
        said = guest.console.read_text(errors="replace")
        assert not find_trouble(said), f"the guest's kernel complained:\n{said}"


@pytest.mark.parametrize("core", CORE, ids=lambda core: core.__name__.removeprefix("test_"))
def test_life_cycle_over_the_serial_channel(serial: Guest, core: Callable[[Guest], None]) -> None:
    """The tests of the machine that has vsock."""
    core(serial)


def test_machine_without_vsock_has_none(serial: Guest) -> None:
    described = subprocess.run(
        [TOOL, "vm", "list", "--json"], env={"KATA_VM_DIR": str(serial.vm_dir), "PATH": "/usr/bin:/bin"},
        capture_output=True, check=True, timeout=30,
    ).stdout.decode()  # fmt: skip
    assert '"vsock": "virtio-serial"' in described
    assert serial.address.startswith("unix://")


def test_several_programs_use_the_channel_at_once(serial: Guest) -> None:
    words = [TOOL, "connect", "--server-address", serial.address, "-c", "Check", "-c", "GetGuestDetails"]
    programs = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(4)]
    for program in programs:
        told, _ = program.communicate(timeout=TIMEOUT_S)
        assert program.returncode == 0, told.decode()


def test_grpc_works_over_the_channel(serial: Guest) -> None:
    """grpclib's client, in a process of its own: the agent serves HTTP/2 on a stream as on any connection."""
    script = (
        "import asyncio, sys\n"
        "from grpclib.client import Channel, UnaryUnaryMethod\n"
        "from kata_protocols.gen import health_pb2 as pb\n"
        "async def main():\n"
        "    channel = Channel(path=sys.argv[1])\n"
        "    try:\n"
        "        check = UnaryUnaryMethod(\n"
        "            channel, '/grpc.Health/Check', pb.CheckRequest, pb.HealthCheckResponse)\n"
        "        for _ in range(20):\n"
        "            print((await check(pb.CheckRequest(), timeout=60)).status)\n"
        "    finally:\n"
        "        channel.close()\n"
        "asyncio.run(main())\n"
    )
    path = serial.address.removeprefix("unix://")
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.stdout.split() == [b"1"] * 20, done.stderr.decode()


def test_client_that_reads_no_answer_stops_no_other(serial: Guest) -> None:
    """It asks for more output than the channel carries for one client, and takes none of it."""

    async def run() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            serial.connect() as sandbox,
            sandbox.container(plan("sh", "-c", "cat /dev/zero")) as container,
        ):
            await container.start()
            names = {"container_id": container.container_id, "exec_id": container.exec_id}
            request = pb.ReadStreamRequest(len=32768, **names).SerializeToString()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as greedy:
                greedy.connect(serial.address.removeprefix("unix://"))
                codec = Connection(Role.CLIENT)
                for _ in range(100):
                    greedy.sendall(codec.send_request(AGENT_SERVICE.name, "ReadStdout", request)[1])
                for _ in range(10):
                    async with serial.connect() as other:
                        assert (await other.client.check()).status == 1

    asyncio.run(run())


def test_agent_that_is_killed_is_followed_by_one_that_is_reached(serial: Guest) -> None:
    """The session ends with it, the port and the containers stay, and the next session begins by itself."""

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            life = await read_agent_life(serial)
            async with start_killer(serial) as killer:
                for _ in range(2):
                    await killer.kill()
                    async with serial.connect() as sandbox:
                        assert (await sandbox.client.check()).status == 1
            assert await read_agent_life(serial) == life + 2
            async with serial.connect() as sandbox:
                assert await run_container(sandbox, "echo", "still here") == (0, b"still here\n", b"")

    asyncio.run(run())


# A port that is plugged into a machine with vsock


@asynccontextmanager
async def plugged_port(guest: Guest, path: Path) -> AsyncIterator[None]:
    """The port that the machine's agent was told to wait for."""
    async with open_monitor(guest.qmp) as monitor:
        backend = {"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": str(path)}}, "server": True, "wait": False,
        }}  # fmt: skip
        await monitor.execute("chardev-add", {"id": "late", "backend": backend})
        device = await monitor.plug_pci(
            "lateserial", "virtio-serial-pci", None, ("chardev-remove", "id", "late")
        )
        options = {"driver": "virtserialport", "id": "lateport", "bus": "lateserial.0", "chardev": "late"}
        await monitor.execute("device_add", {**options, "name": PORT})
        try:
            yield
        finally:
            await monitor.execute("device_del", {"id": "lateport"})
            await monitor.unplug(device)


async def check_alone(path: Path) -> None:
    async with Client(await connect_once(SerialAddress(str(path)))) as client:
        assert (await client.call(CHECK, health_pb2.CheckRequest(), timeout_s=30)).status == 1


def test_port_that_is_plugged_late_is_served_and_again_after_it_was_pulled(
    guest: Guest, short_folder: Path
) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            for number in range(2):
                path = short_folder / f"late{number}"
                async with plugged_port(guest, path):
                    await check_alone(path)

    asyncio.run(run())


def test_hosts_come_and_go_and_leave_anything_on_the_port(guest: Guest, short_folder: Path) -> None:
    """QEMU's own channel: whole sessions, half frames, garbage; each next host is served."""
    leftovers = (
        b"",
        b"\0\0",
        b"no frame at all",
        pack(WINDOW, SYN, 1, 0) + pack(DATA, 0, 1, 9000) + b"half of it",
        bytes(100_000),
    )

    async def run() -> None:
        path = short_folder / "hosts"
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT_S), plugged_port(guest, path):
            for left in leftovers:
                await check_alone(path)
                with socket.socket(fileno=open_channel(str(path))) as rude:
                    await loop.sock_sendall(rude, left)
            for _ in range(3):
                host = Mux(open_channel(str(path)), client=True)
                client = open_client(host)
                assert (await client.call(CHECK, health_pb2.CheckRequest(), timeout_s=30)).status == 1
                host._port.close()
                host._close_streams()
                with pytest.raises(ConnectionLostError):
                    await client.call(CHECK, health_pb2.CheckRequest())
                await client.aclose()
            await check_alone(path)

    asyncio.run(run())


def test_both_channels_reach_the_same_agent(guest: Guest, short_folder: Path) -> None:
    async def run() -> None:
        path = short_folder / "both"
        spec = plan("sh", "-c", "echo both; exit 5")
        async with (
            asyncio.timeout(TIMEOUT_S),
            plugged_port(guest, path),
            guest.connect() as sandbox,
            sandbox.container(spec) as container,
            await connect(f"serial://{path}") as client,
        ):
            await container.start()
            assert await read_all(container) == b"both\n"
            assert (await client.check()).status == 1
            same = Container(client, container.container_id)
            assert await same.wait(30) == 5

    asyncio.run(run())
