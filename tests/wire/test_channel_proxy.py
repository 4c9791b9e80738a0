"""The proxy: several clients on one channel, which may come late, end and come again; the console beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from kata_host.proxy import listen_unix, serve_always
from kata_protocols.aio.address import UnixAddress
from kata_protocols.aio.client import Client
from kata_protocols.aio.dial import dial
from kata_protocols.aio.mux import Mux
from kata_protocols.aio.server import Server
from kata_protocols.gen import health_pb2
from kata_testing.channel import serve_line
from kata_testing.repository import VENV_BIN
from kata_testing.wire import CHECK, Health, run_async, served


class Vmm:
    """A machine as its host sees it: a socket, where one peer at a time has the guest's port."""

    def __init__(self, path: Path, server: Server) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._path = path
        self._server = server
        self._line: socket.socket | None = None
        self._guest: Mux | None = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        self._line, _ = self._listener.accept()
        self._guest = serve_line(self._server, self._line)

    def end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._path.unlink()
        if self._guest is not None:
            self._guest.close()


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[UnixAddress]:
    address = UnixAddress(str(folder / "agent"))
    async with asyncio.TaskGroup() as group:
        with listen_unix(address.path) as listener:
            serving = group.create_task(serve_always(str(folder / "channel"), listener))
            try:
                yield address
            finally:
                serving.cancel()


async def check(address: UnixAddress) -> None:
    async with Client(await dial(address, timeout_s=30)) as client:
        assert (await client.call(CHECK, health_pb2.CheckRequest(), timeout_s=30)).status == 1


def test_any_number_of_clients_have_the_channel_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            vmm = Vmm(tmp_path / "channel", here.server)
            async with proxy(tmp_path) as address, asyncio.TaskGroup() as group:
                for _ in range(50):
                    group.create_task(check(address))
            vmm.end()

    run_async(scenario())


def test_only_its_owner_may_connect(tmp_path: Path) -> None:
    with listen_unix(str(tmp_path / "agent")):
        assert (tmp_path / "agent").stat().st_mode & 0o777 == 0o600


def test_clients_wait_for_a_machine_that_comes_late_and_for_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here, proxy(tmp_path) as address:
            for _ in range(3):
                async with asyncio.TaskGroup() as group:
                    waiting = group.create_task(check(address))
                    await asyncio.sleep(0)
                    vmm = Vmm(tmp_path / "channel", here.server)
                    await waiting
                async with Client(await dial(address, timeout_s=30)) as client:
                    assert (await client.call(CHECK, health_pb2.CheckRequest())).status == 1
                    vmm.end()
                    await client.wait_closed()

    run_async(scenario())


def test_proxy_that_is_killed_is_followed_by_one_that_works(tmp_path: Path) -> None:
    """What it had half said waits in the machine for the next one."""

    async def scenario() -> None:
        async with served(Health().router()) as here:
            ours, theirs = socket.socketpair()
            guest = serve_line(here.server, theirs)
            for _ in range(5):
                host = Mux(os.dup(ours.fileno()), client=True)
                stream, other = socket.socketpair()
                host.attach(other)
                await host.wait_joined()
                stream.settimeout(0)
                with suppress(BlockingIOError):
                    while True:
                        stream.send(
                            bytes(30_000)
                        )  # a part of it may be on the line, in the middle of a frame
                await asyncio.sleep(0)
                host._port.close()
                host._close_streams()
                stream.close()
            last = Mux(ours.detach(), client=True)
            stream, other = socket.socketpair()
            last.attach(other)
            async with Client(stream) as client:
                assert (await client.call(CHECK, health_pb2.CheckRequest())).status == 1
            last.close()
            guest.close()

    run_async(scenario())


def test_the_tool_shares_a_channel_and_copies_the_console(tmp_path: Path) -> None:
    async def scenario() -> None:
        tool = str(VENV_BIN / "kata-agent-ctl")
        agent = f"unix://{tmp_path}/agent"
        words = ("--channel", f"{tmp_path}/channel", "--listen", agent, "--console", f"{tmp_path}/console")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.bind(f"{tmp_path}/console")
            console.listen(1)
            console.settimeout(0)
            async with served(Health().router()) as here:
                vmm = Vmm(tmp_path / "channel", here.server)
                process = await asyncio.create_subprocess_exec(
                    tool, "proxy", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
                assert process.stdout is not None
                printing, _ = await asyncio.get_running_loop().sock_accept(console)
                with printing:
                    printing.sendall(b"the guest says this\n")
                    assert await process.stdout.readline() == b"the guest says this\n"
                    async with asyncio.TaskGroup() as group:
                        for _ in range(4):
                            group.create_task(check(UnixAddress(f"{tmp_path}/agent")))
                process.send_signal(signal.SIGTERM)
                _, told = await process.communicate()
                assert process.returncode == 128 + signal.SIGTERM, told.decode()
                assert b"channel: joined" in told
                assert not (tmp_path / "agent").exists()
                vmm.end()

    run_async(scenario())


@pytest.mark.parametrize("listen", ["vsock://3:1024", "unix://@abstract", "nothing"])
def test_the_tool_names_an_address_that_it_cannot_share_at(listen: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        process = await asyncio.create_subprocess_exec(
            str(VENV_BIN / "kata-agent-ctl"), "proxy", "--channel", str(tmp_path / "c"), "--listen", listen,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, told = await process.communicate()
        assert process.returncode == 2
        assert listen in told.decode()

    run_async(scenario())


def test_the_tool_speaks_to_a_channel_without_a_proxy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(Health().router()) as here:
            vmm = Vmm(tmp_path / "channel", here.server)
            address = f"serial://{tmp_path}/channel"
            process = await asyncio.create_subprocess_exec(
                str(VENV_BIN / "kata-agent-ctl"), "connect", "--server-address", address, "-c", "Check",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            output, told = await process.communicate()
            assert process.returncode == 0, told.decode()
            assert b"SERVING" in output + told
            vmm.end()

    run_async(scenario())
