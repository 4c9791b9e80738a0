"""A machine from a template: restored by itself, then told who it is, then given what it has of its own.

Owns: the order, and a copy's order as JSON for the process that keeps it. Must not know: where templates lie, or who
asks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kata_host.templates.make import SAVED
from kata_host.templates.store import TemplateError, TemplateStore, describe_remake
from kata_host.vm.accel import choose_accelerator
from kata_host.vm.base import Timeline
from kata_host.vm.command_line import plan_cpu
from kata_host.vm.plug import Monitor
from kata_host.vm.qemu import QemuVm
from kata_host.vm.saved import read_saved, restore, resume
from kata_host.vm.state import find_state_root, make_private
from kata_host.vm.versions import VersionsDifferError, ask_program, find_differences, read_versions

ROOT = "root"


@dataclass(frozen=True)
class Own:
    """What a copy has that its template has not: disks, a container's root (read-only), interfaces by their addresses.

    `hostname` is its machine's name unless it is given.
    """

    disks: tuple[Path, ...] = ()
    root: Path | None = None
    nics: tuple[str, ...] = ()
    hostname: str = ""

    def dump(self) -> dict[str, object]:
        """As JSON has it."""
        root = None if self.root is None else str(self.root)
        disks = [str(disk) for disk in self.disks]
        return {"disks": disks, "root": root, "nics": list(self.nics), "hostname": self.hostname}

    @classmethod
    def load(cls, data: dict[str, Any]) -> Own:
        """The inverse of `dump`; what is not there is not wanted."""
        disks = tuple(Path(disk) for disk in data.get("disks", ()))
        root = Path(data["root"]) if data.get("root") else None
        return cls(disks, root, tuple(data.get("nics", ())), str(data.get("hostname", "")))


@dataclass(frozen=True)
class Copy:
    """Which template, in which folder, and the machine's name (default: one is made up); `timeout_s` to restore it.

    With a `share`, or the `channel` vsock where that is another process's, the copy has all of its memory for itself.
    """

    template: str
    root: Path
    name: str | None = None
    timeout_s: float = 120.0
    share: Path | None = None
    channel: Literal["vsock", "serial"] = "serial"

    def dump(self) -> str:
        """As a keeper reads it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def load(cls, text: str | bytes) -> Copy:
        """The inverse of `dump`."""
        data = json.loads(text)
        share = Path(data["share"]) if data["share"] else None
        return cls(**{**data, "root": Path(data["root"]), "share": share})


async def find_obstacles(store: TemplateStore, name: str) -> tuple[str, ...]:
    """Why no copy of a template can be made here, a sentence each. Raises `VmError`, OSError."""
    with store.open(name) as template:
        saved = read_saved(template.folder / SAVED)
    config = saved.config
    accelerator = config.accelerator or await choose_accelerator(
        config.program, config.guest.kernel, make_private(find_state_root())
    )
    cpu = plan_cpu(config, accelerator)
    return find_differences(
        saved.versions, read_versions(config, accelerator, cpu, await ask_program(config.program))
    )


@asynccontextmanager
async def open_standing(copy: Copy, timeline: Timeline | None = None) -> AsyncIterator[QemuVm]:
    """A copy that stands still, and is gone when the context ends. Raises `VmError`, and what `launch` raises."""
    async with AsyncExitStack() as stack:
        with TemplateStore(copy.root).open(copy.template) as template:
            saved = read_saved(template.folder / SAVED)
            config = replace(
                saved.config,
                name=copy.name,
                share=copy.share,
                channel=copy.channel,
                boot_timeout_s=copy.timeout_s,
            )
            try:
                vm = await stack.enter_async_context(restore(saved, config, paused=True, timeline=timeline))
            except VersionsDifferError as error:
                why = "; ".join(error.differences)
                raise TemplateError(
                    f"template {copy.template}: {why}; {describe_remake(copy.template)}"
                ) from error
        yield vm


async def let_go_on(vm: QemuVm, own: Own) -> None:
    """Give a copy its names and devices, repair it, and let it be called. Raises `VmError`, StatusError."""
    monitor = Monitor(vm.qmp)
    # The guest hears of them when it runs, and takes them in while its agent repairs it.
    for number, disk in enumerate(own.disks):
        name = f"disk{number}"
        vm.plugged[name] = (await monitor.plug_disk(name, disk)).address
    if own.root is not None:
        vm.plugged[ROOT] = (await monitor.plug_disk(ROOT, own.root, read_only=True)).address
    for number, mac in enumerate(own.nics):
        name = f"nic{number}"
        vm.plugged[name] = (await monitor.plug_nic(name, mac)).address
    vm.config = replace(vm.config, disks=own.disks, nics=own.nics)
    await resume(vm, hostname=own.hostname or vm.name, machine_id=secrets.token_hex(16))


@asynccontextmanager
async def open_copy(copy: Copy, own: Own, timeline: Timeline | None = None) -> AsyncIterator[QemuVm]:
    """A copy that runs and has what is its own."""
    async with open_standing(copy, timeline) as vm:
        await let_go_on(vm, own)
        yield vm
