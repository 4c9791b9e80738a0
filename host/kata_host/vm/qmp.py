"""A QMP command with its deadline, and QEMU's refusal as a `VmError` with QEMU's text.

Owns: that, for whoever holds a connection. Must not know: any command. Follows QEMU's QMP reference.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from qemu.qmp import ExecuteError, QMPClient, QMPError

from kata_host.vm.base import VmError

TIMEOUT_S = 10.0


class Machine(Protocol):
    """What can be asked by QMP."""

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Run a command, with its arguments as QMP spells them; VmError with the refusal."""


async def run_command(client: QMPClient, command: str, arguments: dict[str, object] | None = None) -> Any:
    """Run a command over this connection. Raises `VmError`: refused, no answer in time, no connection."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await client.execute(command, arguments)
    except ExecuteError as exc:
        raise VmError(f"qemu refused {command}: {exc}") from exc
    except TimeoutError:
        raise VmError(f"qemu did not answer {command} within {TIMEOUT_S:g} s") from None
    except QMPError as exc:
        raise VmError(f"qemu did not answer {command}: {exc}") from exc
