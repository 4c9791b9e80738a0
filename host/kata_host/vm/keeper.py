"""Keeps one machine for `kata-agent-ctl vm start` and `vm restore`, detached from the terminal: the machine's owner
from its beginning to its end.

Started as `python -m kata_host.vm.keeper` in a session of its own, reads its order as JSON from standard input, reports
one JSON line on standard output when the agent is ready or the boot has failed, then waits for SIGTERM or the machine's
end, and takes snapshots when it is asked to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_host.vm.base import VmConfig, VmError
from kata_host.vm.config_json import dump_config, load_config
from kata_host.vm.keeper_calls import Note, open_calls, serve_calls
from kata_host.vm.process import ChildFailed
from kata_host.vm.qemu import QemuVm, launch
from kata_host.vm.state import StateError
from kata_protocols.status import StatusError


@dataclass(frozen=True)
class Order:
    """What to keep: a machine that is booted, or a copy of the saved one in a folder."""

    config: VmConfig
    saved: Path | None = None


def dump_order(order: Order) -> str:
    """The order as the keeper reads it."""
    saved = None if order.saved is None else str(order.saved)
    return json.dumps({"config": json.loads(dump_config(order.config)), "saved": saved})


def load_order(text: str) -> Order:
    """The inverse of `dump_order`."""
    data = json.loads(text)
    saved = None if data["saved"] is None else Path(data["saved"])
    return Order(load_config(json.dumps(data["config"])), saved)


def _report(answer: dict[str, object]) -> None:
    """One line, then no more: whoever started us stops reading, and may have gone already."""
    os.write(1, json.dumps(answer).encode() + b"\n")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


async def keep(machine: AbstractAsyncContextManager[QemuVm]) -> int:
    """Bring a machine up, report, wait for the end."""
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
        async with machine as vm, asyncio.TaskGroup() as group:
            booted = True
            exited = group.create_task(vm.wait_exit())
            exited.add_done_callback(lambda _: ending.set())
            serving = group.create_task(serve_calls(open_calls(vm.folder), _answers(vm)))
            _report(vm.describe())
            await ending.wait()
            exited.cancel()
            serving.cancel()
    except (VmError, StateError, ChildFailed, StatusError, OSError) as exc:
        _report({"error": str(exc)})
        return 1
    return 0


def _open_machine(order: Order) -> AbstractAsyncContextManager[QemuVm]:
    if order.saved is None:
        return launch(order.config)
    from kata_host.vm.saved import read_saved, restore  # who boots does not wait for it

    return restore(read_saved(order.saved), order.config)


def _answers(vm: QemuVm) -> Any:
    """What this machine's keeper does when it is asked."""

    async def answer(request: dict[str, Any], note: Note) -> object:
        from kata_host.vm.snapshot import Snapshot  # few are asked

        match request:
            case {
                "call": "snapshot",
                "folder": str(folder),
                "freeze_filesystems": bool(freeze),
                "unplug": bool(unplug),
            }:
                snapshot = Snapshot(vm, note)
                saved = await snapshot.take(Path(folder), freeze_filesystems=freeze, unplug=unplug)
                return {"folder": str(saved.folder)}
        raise VmError(f"the machine's keeper, maybe of another version, knows no call {request}")

    return answer


def main() -> int:
    """The keeper's process."""
    try:
        return asyncio.run(keep(_open_machine(load_order(sys.stdin.read()))))
    except asyncio.CancelledError:
        return 1  # told to end while it booted; everything has been taken down


if __name__ == "__main__":
    sys.exit(main())
