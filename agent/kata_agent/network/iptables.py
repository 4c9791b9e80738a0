"""The packet filter's rules, read and written by the image's iptables programs.

Owns: which program, its deadline, what its failure says. Must not know: rules. Follows: Kata's agent 3.21, "IP tables",
with the programs' real names. The rules are those of the agent's network namespace.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from kata_agent.errors import AgentError, Exhausted, NotFound, TimedOut
from kata_agent.processes.spawn import spawn
from kata_linux.record import Record
from kata_linux.write import write_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata_agent.processes.exits import ExitBook
    from kata_init.exits import Exit

FOLDERS = ("/usr/sbin", "/sbin")
WAIT_FOR_LOCK = ("--wait", "5")
DEADLINE_S = 30.0
KILL_DEADLINE_S = 5.0
OUTPUT_LIMIT_BYTES = 4 << 20  # more does not fit into an answer
ERRORS_LIMIT_BYTES = 4096


class Outcome(Record):
    """How a program ended and what it wrote."""

    exit: Exit
    output: bytes
    errors: str


async def save(exits: ExitBook, *, v6: bool, folders: Sequence[str] = FOLDERS) -> bytes:
    """The rules, as iptables-save writes them. Its exit status matters only when it wrote nothing."""
    program = find_program("ip6tables-save" if v6 else "iptables-save", folders)
    outcome = await run(exits, [program], b"")
    if not outcome.output:
        check(program, outcome)
    return outcome.output


async def restore(exits: ExitBook, data: bytes, *, v6: bool, folders: Sequence[str] = FOLDERS) -> bytes:
    """Put rules in the place of those there are: all of `data` or, by the program's promise, nothing of a table."""
    program = find_program("ip6tables-restore" if v6 else "iptables-restore", folders)
    outcome = await run(exits, [program, *WAIT_FOR_LOCK], data)
    check(" ".join((program, *WAIT_FOR_LOCK)), outcome)
    return outcome.output


def find_program(name: str, folders: Sequence[str]) -> str:
    """Its path. Raises `NotFound`."""
    for folder in folders:
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise NotFound(f"{name}: not in {' or '.join(folders)}; this guest's image has no iptables")


def check(command: str, outcome: Outcome) -> None:
    """Raise `AgentError` with what the program said, unless it succeeded. Pure."""
    if outcome.exit.signal is not None:
        raise AgentError(f"{command} failed: killed by signal {outcome.exit.signal}: {outcome.errors}")
    if outcome.exit.code:
        raise AgentError(f"{command} failed: {outcome.errors or f'exit status {outcome.exit.code}'}")


async def run(exits: ExitBook, command: list[str], data: bytes) -> Outcome:
    """Run it with `data` as standard input. Raises `TimedOut`; whoever stops waiting kills it."""
    # Memory files, not pipes: neither side can stall the other, and nothing has to be fed or read meanwhile.
    fds: list[int] = []
    try:
        fds.extend(os.memfd_create(f"{command[0]}:{what}") for what in ("input", "output", "errors"))
        write_all(fds[0], data, 0)  # its position stays at the begin, where the program reads
        child = spawn(command, (fds[0], fds[1], fds[2]))
        try:
            async with asyncio.timeout(DEADLINE_S):
                entry = await exits.wait_exit(child.pid, child.start_time)
        except BaseException as error:
            await exits.end(child, KILL_DEADLINE_S)
            if isinstance(error, TimeoutError):
                raise TimedOut(f"{' '.join(command)}: not done in {DEADLINE_S:.0f} s, killed") from None
            raise
        return Outcome(entry, _read_output(command[0], fds[1]), _read_errors(fds[2]))
    finally:
        for fd in fds:
            os.close(fd)


def _read_output(program: str, fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > OUTPUT_LIMIT_BYTES:
        raise Exhausted(f"{program}: wrote {size} bytes, an answer holds {OUTPUT_LIMIT_BYTES}")
    return os.pread(fd, size, 0)


def _read_errors(fd: int) -> str:
    return os.pread(fd, ERRORS_LIMIT_BYTES, 0).decode(errors="replace").strip()
