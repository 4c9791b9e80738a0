"""A machine's device state to a file and back, by QEMU's migration; its memory with it, or another way.

Owns: the capabilities, the descriptor handed over, the wait for the outcome by events, QEMU's own words for a failure.
Must not know: files, guests, how a machine is started. Follows QEMU's QMP reference (`migrate`, `migrate-incoming`,
`getfd`, MIGRATION) and docs/devel/migration.rst; `x-ignore-shared` leaves out memory that others can map.
"""

from __future__ import annotations

import asyncio
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError

from kata_host.vm.base import VmError
from kata_host.vm.qmp import run_command

TIMEOUT_S = 60.0
_UNBOUND = 1 << 40  # bytes a second; else QEMU is as slow as a network
_FD = "state"
_ENDS = ("completed", "failed", "cancelled")


async def write_state(client: QMPClient, fd: int, *, inside: bool = False) -> None:
    """Write the state of a stopped machine. VmError with QEMU's words; the machine can go on in either case.

    With `inside` memory that only QEMU has is written, too.
    """
    await _prepare(client, fd, inside=inside)
    try:
        await _run(client, "migrate", "save the machine")
    finally:
        await _wait_finalized(client)


async def read_state(client: QMPClient, fd: int, *, inside: bool = False) -> None:
    """Bring a machine that waits for it (`-incoming defer`) to the state in the file; it does not run yet."""
    await _prepare(client, fd, inside=inside)
    await _run(client, "migrate-incoming", "restore the machine")


async def _prepare(client: QMPClient, fd: int, *, inside: bool) -> None:
    wanted = {"events": True, "x-ignore-shared": not inside}
    capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
    await run_command(client, "migrate-set-capabilities", {"capabilities": capabilities})
    await run_command(client, "migrate-set-parameters", {"max-bandwidth": _UNBOUND})
    try:
        client.send_fd_scm(fd)
    except (QMPError, OSError) as exc:
        raise VmError(f"qemu does not take a descriptor: {exc}") from exc
    await run_command(client, "getfd", {"fdname": _FD})


async def _run(client: QMPClient, command: str, purpose: str) -> None:
    """Start it and wait for its end."""
    with client.listener("MIGRATION") as events:
        try:
            await run_command(client, command, {"uri": f"fd:{_FD}"})
            async with asyncio.timeout(TIMEOUT_S):
                status = await _wait_end(events)
        except BaseException as exc:
            if command == "migrate":
                await _cancel(client, events)
            if isinstance(exc, TimeoutError):
                raise VmError(f"{purpose}: qemu was not done in {TIMEOUT_S:g} s") from None
            raise
    if status != "completed":
        told = await run_command(client, "query-migrate")
        raise VmError(f"{purpose}: qemu {status}: {told.get('error-desc', 'it gives no reason')}")


async def _wait_end(events: EventListener) -> str:
    async for event in events:
        data: Any = event["data"]
        if data["status"] in _ENDS:
            break
    return str(data["status"])


async def _wait_finalized(client: QMPClient) -> None:
    """Until the machine could go on: the outcome is told while QEMU's thread still has something to do, and no event
    tells when that is done, moments later."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await run_command(client, "query-status"))["status"] == "finish-migrate":
            pass  # between two answers QEMU's other threads have their turn


async def _cancel(client: QMPClient, events: EventListener) -> None:
    """End it, wherever it is; until QEMU is out of it, nothing can be plugged and the machine cannot go on."""
    await run_command(client, "migrate_cancel")
    async with asyncio.timeout(TIMEOUT_S):
        while (await run_command(client, "query-migrate")).get("status", "cancelled") not in _ENDS:
            await events.get()
