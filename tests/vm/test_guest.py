"""The booted guest itself: the health service, its details, PID 1, what it shares with the host."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from kata_host.copyfile import copy_file
from kata_host.spec import BindMount
from kata_host.vm.base import GUEST_SHARE
from kata_host.vm.console import find_trouble
from kata_protocols.gen import agent_pb2 as pb
from kata_protocols.gen import health_pb2
from kata_testing.guest import Guest, plan, read_all, run_container

pytestmark = pytest.mark.requires("root", "qemu", "guest-image")

GUEST_PROC = BindMount("/proc", "/guest-proc", ("rbind", "rw"))


def test_boots_without_a_complaint_of_its_kernel(boot_console: str) -> None:
    assert "Linux version" in boot_console or "kata-agent" in boot_console, "nothing was said at all"
    assert not find_trouble(boot_console)


def test_health_service_answers(guest: Guest) -> None:
    async def ask() -> tuple[health_pb2.HealthCheckResponse, health_pb2.VersionCheckResponse]:
        async with guest.connect() as sandbox:
            return await sandbox.client.check(), await sandbox.client.version()

    check, version = asyncio.run(ask())
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    assert version.agent_version
    assert version.grpc_version


def test_guest_details_say_what_the_guest_is(guest: Guest) -> None:
    async def ask() -> pb.GuestDetailsResponse:
        async with guest.connect() as sandbox:
            request = pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True)
            return await sandbox.client.get_guest_details(request)

    details = asyncio.run(ask())
    assert details.mem_block_size_bytes == 128 << 20
    assert details.agent_details.init_daemon
    assert "virtio-fs" in details.agent_details.storage_handlers


def test_pid_1_is_ours_and_the_agent_is_its_child(guest: Guest) -> None:
    script = (
        "cat /guest-proc/1/comm;"
        "for p in /guest-proc/[0-9]*; do read -r n < $p/comm;"
        ' [ "$n" = kata-agent ] && grep PPid $p/status; done'
    )

    async def look() -> bytes:
        async with guest.connect() as sandbox:
            spec = plan("sh", "-c", script, binds=[GUEST_PROC])
            async with sandbox.container(spec) as container:
                await container.start()
                return await read_all(container)

    assert asyncio.run(look()).split() == [b"init", b"PPid:", b"1"]


def test_the_share_shows_what_the_host_writes(guest: Guest) -> None:
    (guest.share / "note").write_text("from the host\n")
    share = BindMount(f"{GUEST_SHARE}note", "/etc/note", ("bind", "ro"))
    (guest.share / "busybox/etc/note").touch()

    async def look() -> bytes:
        spec = plan("cat", "/etc/note", binds=[share])
        async with guest.connect() as sandbox, sandbox.container(spec) as container:
            await container.start()
            return await read_all(container)

    assert asyncio.run(look()) == b"from the host\n"


def test_a_copied_file_is_there_whole_and_with_its_mode(guest: Guest) -> None:
    source = guest.share.parent / "to-copy"
    source.write_bytes(bytes(range(256)) * 9000)  # 2.3 MB: three pieces
    source.chmod(0o640)
    target = "/run/kata-containers/copied"
    mount = BindMount(target, "/etc/note", ("bind", "ro"))
    (guest.share / "busybox/etc/note").touch()

    async def copy() -> bytes:
        async with guest.connect() as sandbox:
            await copy_file(sandbox.client, str(source), target)
            spec = plan("sh", "-c", "stat -c %a /etc/note; sha256sum < /etc/note", binds=[mount])
            async with sandbox.container(spec) as container:
                await container.start()
                return await read_all(container)

    assert asyncio.run(copy()).decode().split()[:2] == [
        "640",
        hashlib.sha256(source.read_bytes()).hexdigest(),
    ]


def test_date_time_set_by_the_host_is_the_guests(guest: Guest) -> None:
    async def set_and_read() -> tuple[int, bytes, bytes]:
        async with guest.connect() as sandbox:
            await sandbox.client.set_guest_date_time(pb.SetGuestDateTimeRequest(Sec=2_000_000_000, Usec=5))
            return await run_container(sandbox, "date", "+%s")

    _, output, _ = asyncio.run(set_and_read())
    assert 2_000_000_000 <= int(output) < 2_000_000_060
