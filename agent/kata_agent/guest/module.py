"""Kernel modules that the host asks for, by `/sbin/modprobe`, which knows what depends on what.

Owns: the call, its deadline and the words of its failure. Must not know: which modules. Follows: Kata's agent 3.21,
CreateSandbox step 2.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from kata_agent.errors import AgentError, TimedOut
from kata_agent.processes.spawn import spawn

if TYPE_CHECKING:
    from kata_agent.processes.exits import ExitBook
    from kata_init.exits import Exit

MODPROBE = "/sbin/modprobe"
DEADLINE_S = 60.0
KILL_DEADLINE_S = 1.0
OUTPUT_LIMIT_BYTES = 1024


async def load(exits: ExitBook, name: str, parameters: tuple[str, ...], program: str = MODPROBE) -> None:
    """Load a module with its parameters. Raises `AgentError` with what modprobe said, `TimedOut`."""
    # Memory files, not pipes: a program that writes much cannot stall, and nothing has to be read meanwhile.
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    output = os.memfd_create("modprobe-output")
    errors = os.memfd_create("modprobe-errors")
    try:
        child = spawn([program, "-v", "--", name, *parameters], (null, output, errors))
        try:
            async with asyncio.timeout(DEADLINE_S):
                entry = await exits.wait_exit(child.pid, child.start_time)
        except TimeoutError:
            text = f"modprobe {name}: not done in {DEADLINE_S:.0f} s, killed"
            try:
                await exits.end(child, KILL_DEADLINE_S)
            except TimeoutError:
                text += ", and still in the kernel"
            raise TimedOut(text) from None
        check_exit(name, entry, _read(output), _read(errors))
    finally:
        for fd in (null, output, errors):
            os.close(fd)


def check_exit(name: str, entry: Exit, output: str, errors: str) -> None:
    """Raise `AgentError` unless modprobe succeeded. Pure."""
    if entry.signal is not None:
        raise AgentError(f"load_kernel_module {name}: modprobe was killed by signal {entry.signal}")
    if entry.code:
        raise AgentError(
            f"load_kernel_module {name}: modprobe failed with code {entry.code}, stdout: {output!r}, stderr: {errors!r}"
        )


def _read(fd: int) -> str:
    return os.pread(fd, OUTPUT_LIMIT_BYTES, 0).decode(errors="replace").strip()
