"""Keeps one machine for `kata-agent-ctl vm start`, detached from the terminal: the machine's owner from boot to
end.

Started as `python -m kata_host.vm.keeper` in a session of its own, reads the configuration as JSON from standard
input, reports one JSON line on standard output when the agent is ready or the boot has failed, then waits for
SIGTERM or the machine's end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from kata_host.vm.base import VmConfig, VmError
from kata_host.vm.config_json import load_config
from kata_host.vm.process import ChildFailed
from kata_host.vm.qemu import launch
from kata_host.vm.state import StateError


def _report(answer: dict[str, object]) -> None:
    """One line, then no more: whoever started us stops reading, and may have gone already."""
    os.write(1, json.dumps(answer).encode() + b"\n")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


async def keep(config: VmConfig) -> int:
    """Boot, report, wait for the end."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    booted = False

    def end() -> None:
        ending.set()
        if not booted and task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    try:
        async with launch(config) as vm, asyncio.TaskGroup() as group:
            booted = True
            _report(vm.describe())
            exited = group.create_task(vm.wait_exit())
            exited.add_done_callback(lambda _: ending.set())
            await ending.wait()
            exited.cancel()
    except (VmError, StateError, ChildFailed, OSError) as exc:
        _report({"error": str(exc)})
        return 1
    return 0


def main() -> int:
    """The keeper's process."""
    try:
        return asyncio.run(keep(load_config(sys.stdin.read())))
    except asyncio.CancelledError:
        return 1  # told to end while it booted; everything has been taken down


if __name__ == "__main__":
    sys.exit(main())
