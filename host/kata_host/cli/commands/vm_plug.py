"""`kata-agent-ctl vm plug|unplug`: what machines get while they run; prints where the guest finds it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from kata_host.cli.errors import CliError
from kata_host.cli.machine import mac_address
from kata_host.vm import resize
from kata_host.vm.plug import Monitor, Plugged, open_monitor
from kata_host.vm.state import list_descriptions

_PLUG_EPILOG = """examples:
  kata-agent-ctl vm plug test data disk disk.img          a PCI path, for a storage or device of driver blk
  kata-agent-ctl vm plug test data scsi disk.img 1:0      the same address, for driver scsi
  kata-agent-ctl vm plug test eth nic 02:00:00:00:00:01   a PCI path, for UpdateInterface's devicePath
  kata-agent-ctl vm plug test card pci bochs-display      any PCI device of QEMU's
  kata-agent-ctl vm plug test mem pmem disk.img           persistent memory: it cannot be unplugged
  kata-agent-ctl vm plug test more cpu 2                  two processors, of a VM with --max-cpus; their own names
  kata-agent-ctl vm plug test dimm memory 256             a module of so many MiB
The agent brings processors and memory into use when it is asked: OnlineCPUMem."""


def add_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both actions' command lines."""
    plug = actions.add_parser(
        "plug", help="plug a device into a VM", epilog=_PLUG_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    plug.add_argument("name", help="the VM's name")
    plug.add_argument("id", metavar="ID", help="the device's, of your choice: for unplugging it")
    plug.add_argument("kind", choices=("disk", "scsi", "nic", "pmem", "pci", "cpu", "memory"))
    plug.add_argument(
        "what", metavar="WHAT", help="an image, a hardware address, a driver of QEMU's, how many, MiB"
    )
    plug.add_argument("address", nargs="?", default="", metavar="TARGET:UNIT", help="of a SCSI disk")
    plug.add_argument("--read-only", action="store_true", help="a disk that cannot be written")
    plug.add_argument("--json", action="store_true", help="print JSON")
    plug.set_defaults(run=run_plug)
    unplug = actions.add_parser("unplug", help="pull a device out of a VM, once the guest has let go of it")
    unplug.add_argument("name", help="the VM's name")
    unplug.add_argument("id", metavar="ID", help="the device's")
    unplug.set_defaults(run=run_unplug)


async def run_plug(options: argparse.Namespace) -> int:
    """Plug it; print the address that the agent is asked by."""
    if (options.kind == "scsi") != bool(options.address):
        raise CliError("TARGET:UNIT, like 1:0, belongs to a SCSI disk, and to nothing else", status=2)
    unit = parse_unit(options.address) if options.address else (0, 0)
    machine = find_machine(options.name)
    if options.kind == "cpu" and machine["max_cpus"] is None and machine["accelerator"] == "tcg":
        raise CliError(
            f"an emulated guest brings no processor up that {options.name} did not start with --max-cpus for"
        )
    async with open_monitor(Path(str(machine["qmp"]))) as monitor:
        await monitor.check_name(options.id)
        plugged = await _plug(monitor, options, unit)
    if options.json:
        print(json.dumps({"id": plugged.id, "address": plugged.address}))
    else:
        print(plugged.address)
    return 0


async def _plug(monitor: Monitor, options: argparse.Namespace, unit: tuple[int, int]) -> Plugged:
    image = Path(options.what)
    match options.kind:
        case "disk":
            return await monitor.plug_disk(options.id, image, read_only=options.read_only)
        case "scsi":
            return await monitor.plug_scsi_disk(options.id, image, *unit, read_only=options.read_only)
        case "nic":
            return await monitor.plug_nic(options.id, parse_mac(options.what))
        case "pmem":
            return await monitor.plug_pmem(options.id, image)
        case "cpu":
            ids = await resize.plug_cpus(monitor, parse_number(options.what), options.id)
            return Plugged(options.id, " ".join(ids))
        case "memory":
            name = await resize.plug_memory(monitor, options.id, parse_number(options.what))
            return Plugged(name, name)
    return await monitor.plug_pci(options.id, options.what)


async def run_unplug(options: argparse.Namespace) -> int:
    """Pull it, and close what was behind it."""
    async with open_monitor(find_monitor(options.name)) as monitor:
        processors = await resize.list_cpus(monitor, options.id)
        for name in processors or (options.id,):
            await monitor.unplug(await monitor.recall(name))
    return 0


def find_monitor(name: str) -> Path:
    """The machine's QMP socket. Raises `CliError`."""
    return Path(str(find_machine(name)["qmp"]))


def find_machine(name: str) -> dict[str, object]:
    """The description of a machine that runs. Raises `CliError`."""
    for each in list_descriptions():
        if each["name"] == name and each["running"]:
            return each
    raise CliError(f"no VM named {name!r} runs; `kata-agent-ctl vm list` shows them")


def parse_mac(text: str) -> str:
    """The hardware address of one interface. Raises `CliError`."""
    try:
        return mac_address(text)
    except argparse.ArgumentTypeError as exc:
        raise CliError(str(exc), status=2) from exc


def parse_number(text: str) -> int:
    """A number above zero, of processors or MiB. Raises `CliError`."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise CliError(f"{text!r}: a number above zero is needed", status=2)
    return int(text)


def parse_unit(text: str) -> tuple[int, int]:
    """Target and unit of `1:0`. Raises `CliError`."""
    if not re.fullmatch(r"\d+:\d+", text):
        raise CliError(f"{text!r}: a SCSI disk's target and unit are needed, like 1:0", status=2)
    target, unit = text.split(":")
    return int(target), int(unit)
