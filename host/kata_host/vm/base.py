"""What every VMM offers: the machine's configuration, the running machine, its errors and its time line.

A VMM is one file beside this one with a function `launch(config) -> AsyncContextManager[Vm]`; what calls it
(`kata_host.cli`, your program) and everything above know this file alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

AGENT_PORT = 1024
DOORBELL_PORT = 1700
SHARE_TAG = "kataShared"
MEMORY_DEVICE = "vmem0"
GUEST_SHARE = "/run/kata-containers/shared/containers/"


class VmError(Exception):
    """A virtual machine could not be started or driven."""


class BootFailed(VmError):
    """The machine did not get as far as an agent that answers; the text has the console's and the VMM's last lines."""


class EmulatorFault(BootFailed):
    """The same, and by its looks the emulator's doing: the next boot will be another."""


@dataclass(frozen=True)
class GuestFiles:
    """What a build made: kernel, initrd, and the vsock device program for hosts without vhost-vsock."""

    kernel: Path
    initrd: Path
    vsock_program: Path | None = None


@dataclass(frozen=True)
class Accelerator:
    """How the guest's instructions run, and why it was chosen."""

    name: Literal["kvm", "tcg"]
    reason: str


@dataclass(frozen=True)
class VmConfig:
    """One machine. `share` is the host folder that the guest mounts by virtiofs under `SHARE_TAG`.

    More processors, up to `max_cpus`, and memory can be plugged while it runs (`kata_host.vm.resize`).
    `memory_device_mib` is the most that a virtio memory device can have, which the guest uses as far as it is told to.
    `disks` are raw images, which the guest sees as /dev/vda and so on, and QMP as the nodes `disk0` and so on.
    `nics` are the addresses of interfaces, each on a user network of QEMU's with the host's loopback at its gateway.
    `channel` is how the agent is reached: by vsock, or by a virtio port ("serial"), which needs nothing of the host;
    None is vsock where the host has any.
    `image` is one of `kata_host.vm.root_image.KINDS`. `ksm` lets the host merge its pages with other machines'.
    `savable`: it can be saved (`kata_host.vm.saved`), so it has neither vsock nor share.
    """

    guest: GuestFiles
    name: str | None = None
    cpus: int = 2
    max_cpus: int | None = None
    memory_mib: int = 512
    memory_device_mib: int = 0
    share: Path | None = None
    disks: tuple[Path, ...] = ()
    nics: tuple[str, ...] = ()
    channel: Literal["vsock", "serial"] | None = None
    image: str = "initrd"
    ksm: bool = False
    savable: bool = False
    kernel_args: tuple[str, ...] = ()
    boot_timeout_s: float = 120.0
    accelerator: Accelerator | None = None
    program: str = "qemu-system-x86_64"


@dataclass(frozen=True)
class Stamp:
    """Something that happened: seconds since the launch by the host's clock, and the guest's own text about it."""

    event: str
    host_s: float
    guest: str = ""


@dataclass
class Timeline:
    """What happened since the launch, in order."""

    started: float = field(default_factory=time.monotonic)
    stamps: list[Stamp] = field(default_factory=list)
    listener: Callable[[Stamp], None] | None = None

    def mark(self, event: str, guest: str = "") -> Stamp:
        """Note that `event` happens now."""
        stamp = Stamp(event, time.monotonic() - self.started, guest)
        self.stamps.append(stamp)
        if self.listener is not None:
            self.listener(stamp)
        return stamp


class Vm(Protocol):
    """A running machine whose agent is ready."""

    @property
    def name(self) -> str:
        """The name it is listed under."""

    @property
    def address(self) -> str:
        """Where its agent listens, for `kata_host.connect`."""

    @property
    def console(self) -> Path:
        """The file that everything the guest's console prints goes to."""

    @property
    def qmp_socket(self) -> Path:
        """A QMP socket for whoever wants to look at the machine from outside."""

    @property
    def accelerator(self) -> Accelerator:
        """How it runs."""

    @property
    def timeline(self) -> Timeline:
        """When what happened."""

    def describe(self) -> dict[str, object]:
        """The JSON-shaped description that `vm start --json` and `vm list --json` print."""

    async def wait_exit(self) -> int:
        """Wait until the VMM has ended; its return code."""

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Run a QMP command."""
