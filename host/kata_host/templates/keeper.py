"""Keeps one copy of a template for `vm start --template` and for a pool: its owner from the restore to its end.

Started as `python -m kata_host.templates.keeper` in a session of its own. Reads a line with the copy's order from
standard input and restores it; says `{"held": NAME}` when it stands still. A second line says what the copy has of its
own, and that it goes on; then the report is any keeper's. When the input ends before that line, or when the line asks
for a `leash` at any time, the machine ends. Must not know: who holds the other ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kata_host.templates.copy import Copy, Own, let_go_on, open_standing
from kata_host.vm.keeper import keep
from kata_host.vm.process import run_while_alive
from kata_host.vm.qemu import QemuVm
from kata_host.vm.report import LIMIT_BYTES, read_line, write_report

_STDIN = 0


@asynccontextmanager
async def open_held() -> AsyncIterator[QemuVm]:
    """The copy that standard input orders, once it was told to go on. Raises CancelledError when it never is."""
    copy = Copy.load(await read_line(_STDIN))
    async with open_standing(copy) as vm:
        write_report({"held": vm.name})
        assert vm.child is not None  # noqa: S101 - it stands still
        line = await run_while_alive(read_line(_STDIN), vm.child)
        if not line:
            raise asyncio.CancelledError  # whoever held us is gone
        words = json.loads(line)
        await let_go_on(vm, Own.load(words))
        if words.get("leash"):
            asyncio.get_running_loop().add_reader(_STDIN, _end_with_input)
        yield vm


def _end_with_input() -> None:
    if not os.read(_STDIN, LIMIT_BYTES):
        asyncio.get_running_loop().remove_reader(_STDIN)
        os.kill(os.getpid(), signal.SIGTERM)  # as `vm stop` does


def main() -> int:
    """The keeper's process."""
    try:
        return asyncio.run(keep(open_held()))
    except asyncio.CancelledError:
        return 1  # told to end before it ran; everything has been taken down


if __name__ == "__main__":
    sys.exit(main())
