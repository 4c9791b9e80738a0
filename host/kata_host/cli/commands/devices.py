"""`kata-agent-ctl devices`: the devices that a guest's agent has waited for, and how long each step took."""

from __future__ import annotations

import argparse
import json

from kata_host.cli.table import format_table
from kata_host.cli.target import add_target_options, open_service
from kata_host.message_json import dump_message
from kata_protocols.gen import sandbox_pb2 as pb

_HEADERS = ("DEVICE", "NODE", "DRIVER", "GROUP", "STATE", "EVENT-READY", "EVENT-MOUNTED", "WAITED", "USED BY")
_EPILOG = """EVENT-READY and EVENT-MOUNTED count from the kernel's event about the device until it could be opened, and
until its file system was mounted; WAITED is how long the agent waited for it. With --json every time is there."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "devices", help="list devices that were plugged in, their state and times", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Print the devices; those that failed with the reason."""
    async with open_service(options) as service:
        found = (await service.list_devices()).devices
    if options.json:
        for device in found:
            print(json.dumps(dump_message(device)))
        return 0
    print(format_table(_HEADERS, [_row(device) for device in found]))
    for device in found:
        if device.reason:
            print(f"{device.address}: {device.reason}")
    return 0


def _row(device: pb.Device) -> tuple[object, ...]:
    return (
        f"{device.handler}: {device.address}",
        device.node or device.name or "-",
        device.driver or "-",
        device.group or "-",
        device.state,
        format_span(device.event_ns, device.ready_ns),
        format_span(device.event_ns, device.mounted_ns),
        format_span(device.asked_ns, device.ready_ns),
        " ".join(name or "sandbox" for name in device.containers) or "-",
    )


def format_span(start_ns: int, end_ns: int) -> str:
    """Milliseconds between two times, `-` when one of them has not happened."""
    return f"{max(end_ns - start_ns, 0) / 1e6:.1f} ms" if start_ns and end_ns else "-"
