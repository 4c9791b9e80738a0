"""The options that every verb which boots a machine shares, and the machine's configuration made from them."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from kata_host.guest import find_guest
from kata_host.vm.base import Accelerator, VmConfig
from kata_host.vm.root_image import INITRD, KINDS

DEFAULT_MEMORY_MIB = 512
DEFAULT_CPUS = 2
NEW_MAC = "new"


def positive(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above zero")
    return number


def mac_address(text: str) -> str:
    """Six bytes in hexadecimal, of one interface: the lowest bit of the first is 0; or `new`, one of its own."""
    if text == NEW_MAC:
        return make_mac()
    parts = text.lower().split(":")
    if len(parts) != 6 or any(len(part) != 2 or set(part) - set("0123456789abcdef") for part in parts):
        raise argparse.ArgumentTypeError(f"{text}: not an address like 02:00:00:00:00:01")
    if int(parts[0], 16) & 1:
        raise argparse.ArgumentTypeError(f"{text}: a group's address; the first byte must be even")
    return text.lower()


def make_mac() -> str:
    """The address of an interface that nobody else has: random, of one interface, administered locally."""
    return "02:" + secrets.token_bytes(5).hex(":")


def positive_float(text: str) -> float:
    """A number above zero."""
    number = float(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above zero")
    return number


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Size, guest, time to boot."""
    group = parser.add_argument_group("machine")
    group.add_argument("--memory", type=positive, metavar="MIB", help="guest memory (default 512)")
    group.add_argument("--cpus", type=positive, metavar="N", help="virtual CPUs (default 2)")
    group.add_argument(
        "--max-cpus",
        type=positive,
        metavar="N",
        help="virtual CPUs that there may be, with those plugged later",
    )
    group.add_argument(
        "--memory-device",
        type=positive,
        default=0,
        metavar="MIB",
        help="the most of a virtio memory device, which begins with nothing",
    )
    group.add_argument(
        "--timeout", type=positive_float, default=120.0, metavar="S", help="seconds to boot (default 120)"
    )
    group.add_argument(
        "--guest-dir", metavar="DIR", help="folder of vmlinuz and initrd.img (default build/guest)"
    )
    _add_device_options(group)
    group.add_argument(
        "--channel",
        choices=("vsock", "serial"),
        help="how the agent is reached: vsock, or a virtio port, which needs nothing of the host (default: vsock"
        " where the host has any)",
    )
    group.add_argument(
        "--ksm", action="store_true", help="let the host merge equal pages of its machines' memory"
    )
    group.add_argument(
        "--kernel-arg", action="append", default=[], metavar="WORD", help="more kernel command line"
    )
    group.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="default: KVM where it works"
    )


def _add_device_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="FILE",
        help="a raw image as the guest's next disk, /dev/vda first",
    )
    group.add_argument(
        "--nic",
        action="append",
        type=mac_address,
        default=[],
        metavar="MAC",
        help="a network interface with this address (or `new`: one of its own), on a user network;"
        " UpdateInterface configures it",
    )
    group.add_argument(
        "--image",
        choices=KINDS,
        default=INITRD,
        help="what the guest's root is: the initramfs (default), a verified disk, or shared memory",
    )


def read_config(options: argparse.Namespace, *, share: Path | None, name: str | None = None) -> VmConfig:
    """The machine that the options ask for."""
    forced = None if options.accel == "auto" else Accelerator(options.accel, "asked for with --accel")
    return VmConfig(
        guest=find_guest(options.guest_dir),
        name=name,
        cpus=options.cpus or DEFAULT_CPUS,
        max_cpus=options.max_cpus,
        memory_mib=options.memory or DEFAULT_MEMORY_MIB,
        memory_device_mib=options.memory_device,
        share=share,
        disks=tuple(Path(disk) for disk in options.disk),
        nics=tuple(options.nic),
        channel=options.channel,
        image=options.image,
        ksm=options.ksm,
        savable=getattr(options, "savable", False),
        kernel_args=tuple(options.kernel_arg),
        boot_timeout_s=options.timeout,
        accelerator=forced,
    )
