"""`kata-agent-ctl boot`: boot a machine, run `true` in a container, and print when what happened."""

from __future__ import annotations

import argparse
import json

from kata_host.cli.machine import add_machine_options, read_config
from kata_host.cli.progress import Progress
from kata_host.cli.timeline import format_table, plan_rows
from kata_host.connect import connect
from kata_host.guest import find_default_rootfs
from kata_host.sandbox import open_sandbox
from kata_host.spec import ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE, Timeline
from kata_host.vm.qemu import launch

_EPILOG = """examples:
  kata-agent-ctl boot
  kata-agent-ctl boot --json --cpus 1 --memory 256

`host s` counts from the launch, by the host's clock; `guest s` from the kernel's start, by the guest's own."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "boot", help="print the time line from kernel to first container", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_machine_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Boot, run, report."""
    guest = read_config(options, share=None).guest
    config = read_config(options, share=find_default_rootfs(guest))
    timeline = Timeline()
    with Progress() as progress:
        timeline.listener = lambda stamp: progress.show(stamp.event)
        async with launch(config, timeline) as vm:
            status = await _run_true(vm.address, timeline)
    rows = plan_rows(timeline)
    if options.json:
        accelerator = {"name": vm.accelerator.name, "reason": vm.accelerator.reason}
        print(
            json.dumps(
                {"accelerator": accelerator, "vsock": vm.vsock_kind, "status": status, "timeline": rows}
            )
        )
    else:
        print(f"runs under {vm.accelerator.name}: {vm.accelerator.reason}")
        print(f"vsock by {vm.vsock_kind}")
        print(format_table(rows))
    return status


async def _run_true(address: str, timeline: Timeline) -> int:
    spec = plan_spec(ProcessPlan(["true"]), GUEST_SHARE)
    async with await connect(address) as client, open_sandbox(client, note=timeline.mark) as sandbox:
        async with sandbox.container(spec) as container:
            timeline.mark("container created")
            await container.start()
            timeline.mark("container started")
            status = await container.wait()
            timeline.mark("container ended")
        return status
