"""The debug console of a real agent: a shell with a terminal and a window size, and what is left when it ends."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kata_protocols.aio.address import UnixAddress
from kata_protocols.console import encode_size
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

TOOL = (sys.executable, "-m", "kata_host.cli.main", "console")
DEADLINE_S = 150.0


class Shell:
    """A raw connection to a console."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: str, end: str) -> str:
        """Type a line; gives what is shown up to `end`, which the line itself must not contain."""
        self.writer.write(f"{line}\n".encode())
        return (await self.reader.readuntil(end.encode())).decode()


def port_of(folder: Path) -> UnixAddress:
    return UnixAddress(str(folder / "console.sock"))


@asynccontextmanager
async def console_agent(folder: Path, *, console: bool = True) -> AsyncIterator[NativeAgent]:
    words = (f"agent.debug_console_vport=unix://{port_of(folder).path}", *(["agent.debug_console"] * console))
    async with native_agent(folder, supervised=True, words=words) as agent:
        yield agent


@asynccontextmanager
async def shell_of(folder: Path) -> AsyncIterator[Shell]:
    reader, writer = await asyncio.open_unix_connection(port_of(folder).path)
    try:
        yield Shell(reader, writer)
    finally:
        writer.close()


def children(agent: NativeAgent) -> list[int]:
    pid = agent.agent_pid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def wait_gone(pid: int) -> None:
    """Wait until this process has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    fd = os.pidfd_open(pid)
    try:
        loop.add_reader(fd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def test_shell_has_a_terminal_of_its_own_and_is_killed_with_its_connection(tmp_path: Path) -> None:
    async def body() -> None:
        async with console_agent(tmp_path) as agent:
            async with shell_of(tmp_path) as shell:
                assert "/dev/pts/" in await shell.ask("echo tty=$(tty)$((40+2))", "42")
                assert "score=0_" in await shell.ask(
                    "echo score=$(cat /proc/$$/oom_score_adj)_$((40+2))", "_42"
                )
                assert "session" in await shell.ask(
                    '[ "$(ps -o sid= -p $$)" -eq $$ ] && echo sess""ion', "session"
                )
                (pid,) = children(agent)
                async with asyncio.TaskGroup() as group:
                    group.create_task(wait_gone(pid))
                    shell.writer.close()
            assert "debug console opened" in agent.log.read_text()

    run_async(body(), DEADLINE_S)


def test_window_size_is_the_host_s_now_and_when_it_changes(tmp_path: Path) -> None:
    async def body() -> None:
        async with console_agent(tmp_path), shell_of(tmp_path) as shell:
            shell.writer.write(encode_size(33, 101))
            assert "=33 101_" in await shell.ask("echo size=$(stty size)_$((40+2))", "_42")
            shell.writer.write(encode_size(44, 202))
            assert "=44 202_" in await shell.ask("echo size=$(stty size)_$((40+2))", "_42")

    run_async(body(), DEADLINE_S)


def test_everything_that_was_printed_arrives_before_the_end_and_sessions_are_bounded(tmp_path: Path) -> None:
    async def body() -> None:
        async with console_agent(tmp_path):
            async with shell_of(tmp_path) as shell:
                shell.writer.write(b"stty -echo -opost; sleep 1000 & seq 1 50000; exit\n")
                printed = (await shell.reader.read()).decode()
                assert printed.split()[-2:] in (["50000", "exit"], ["49999", "50000"])
                assert "\n25000\n" in printed
            shells = [await asyncio.open_unix_connection(port_of(tmp_path).path) for _ in range(9)]
            refused = (await shells[-1][0].read()).decode()
            assert refused == "kata-agent: 8 sessions are open, close one\r\n"
            for _, writer in shells:
                writer.close()

    run_async(body(), DEADLINE_S)


def test_port_alone_opens_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with console_agent(tmp_path, console=False):
            with pytest.raises(FileNotFoundError):
                await asyncio.open_unix_connection(port_of(tmp_path).path)

    run_async(body(), DEADLINE_S)


def test_console_is_there_again_after_the_agent_s_death(tmp_path: Path) -> None:
    async def body() -> None:
        async with console_agent(tmp_path) as agent:
            async with shell_of(tmp_path) as shell:
                await shell.ask("echo a$((40+2))", "a42")
                os.kill(agent.agent_pid(), signal.SIGKILL)
                await shell.reader.read()
            await agent.dial()
            async with shell_of(tmp_path) as shell:
                assert "b42" in await shell.ask("echo b$((40+2))", "b42")

    run_async(body(), DEADLINE_S)


async def run_tool(folder: Path, keys: list[tuple[bytes, bytes]]) -> tuple[int, bytes, bool]:
    """Run the tool on a terminal; type each of `keys` when what comes before has been shown. Status, what was shown,
    and whether the terminal is as it was."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = await asyncio.create_subprocess_exec(
        *(*TOOL, "--port-address", f"unix://{port_of(folder).path}"),
        stdin=slave, stdout=slave, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    shown = b""
    loop = asyncio.get_running_loop()
    os.set_blocking(master, False)
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(master), "rb", 0)
    )
    try:
        for expected, typed in keys:
            while expected not in shown:
                shown += (data := await reader.read(4096))
                assert data, shown
            os.write(master, typed)
        status = await process.wait()
        after = termios.tcgetattr(slave)
    finally:
        transport.close()
        os.close(slave)
        os.close(master)
    return status, shown, before == after


@pytest.mark.parametrize(
    "last", [(b"a42 ", b"exit\n"), (b"a42 ", b"sleep 1000\n\x1d")], ids=["the shell ends", "the escape key"]
)
def test_tool_gives_the_terminal_back(tmp_path: Path, last: tuple[bytes, bytes]) -> None:
    async def body() -> None:
        async with console_agent(tmp_path) as agent:
            keys = [(b"# ", b"echo a$((40+2)) $(stty size)\n"), last]
            status, shown, restored = await run_tool(tmp_path, keys)
            assert (status, restored) == (0, True)
            assert b"a42 " in shown
            await agent.check()

    run_async(body(), DEADLINE_S)


def test_tool_takes_commands_from_a_pipe(tmp_path: Path) -> None:
    async def body() -> None:
        async with console_agent(tmp_path):
            process = await asyncio.create_subprocess_exec(
                *(*TOOL, "--port-address", f"unix://{port_of(tmp_path).path}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate(b"echo from-$((40+2)); stty size\n")
            assert process.returncode == 0
            assert b"from-42" in output
            assert b"24 80" in output

    run_async(body(), DEADLINE_S)


def test_tool_says_how_to_open_a_console_that_is_not_there(tmp_path: Path) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_exec(
            *(*TOOL, "--port-address", f"unix://{tmp_path}/none"), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert b"agent.debug_console agent.debug_console_vport=1026" in errors

    run_async(body(), DEADLINE_S)
