"""`kata-agent-ctl boot`: boot a machine, run `true` in a container, and print when what happened.

With `--vm` or `--server-address` nothing is booted: a machine that runs tells its own time line.
"""

from __future__ import annotations

import argparse
import json

from kata_host.cli.machine import add_machine_options, read_config
from kata_host.cli.progress import Progress
from kata_host.cli.table import format_table as format_columns
from kata_host.cli.target import add_target_options, open_service
from kata_host.cli.timeline import format_table, plan_rows
from kata_host.connect import connect
from kata_host.guest import find_default_rootfs
from kata_host.message_json import dump_message
from kata_host.sandbox import open_sandbox
from kata_host.spec import ProcessPlan, plan_spec
from kata_host.vm.base import GUEST_SHARE, Timeline
from kata_host.vm.qemu import launch

_EPILOG = """examples:
  kata-agent-ctl boot
  kata-agent-ctl boot --json --cpus 1 --memory 256
  kata-agent-ctl boot --vm test                 when that machine came up, and how its agent fares

`host s` counts from the launch, by the host's clock; `guest s` from the kernel's start, by the guest's own."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "boot", help="print the time line from kernel to first container", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_target_options(parser, default="boot one")
    add_machine_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Boot, run, report; or ask a machine that runs."""
    if options.vm or options.server_address:
        return await _show_running(options)
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
        print(f"reached by {vm.vsock_kind}")
        print(format_table(rows))
    return status


async def _show_running(options: argparse.Namespace) -> int:
    async with open_service(options) as service:
        boot = await service.get_boot()
    if options.json:
        print(json.dumps(dump_message(boot)))
        return 0
    rows = [(step.name, f"{step.boottime_ns / 1e9:.3f}") for step in boot.steps]
    print(format_columns(("EVENT", "GUEST S"), rows))
    print(
        f"agent: life {boot.life}" + (f", the one before ended by {boot.last_end}" if boot.last_end else "")
    )
    print(f"event loop: {boot.loop_lag_us} us late at the last look, {boot.worst_lag_us} us at worst")
    return 0


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
