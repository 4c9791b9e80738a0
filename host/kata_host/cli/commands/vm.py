"""`kata-agent-ctl vm start|stop|list`: machines that stay when the tool ends, known by name. `vm_plug` and
`vm_snapshot` have the rest."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import signal
from dataclasses import replace
from pathlib import Path

from kata_host.cli.commands import vm_plug, vm_pool, vm_snapshot, vm_template
from kata_host.cli.copies import add_copy_options, read_own, start_copy, wants_copy
from kata_host.cli.errors import CliError
from kata_host.cli.keeping import show_machine, start_keeper
from kata_host.cli.machine import add_machine_options, read_config
from kata_host.cli.progress import Progress
from kata_host.guest import find_default_rootfs
from kata_host.vm.keeper import Order
from kata_host.vm.state import find_state_root, is_owned, list_descriptions, sweep_stale

STOP_TIMEOUT_S = 15.0

_EPILOG = """examples:
  kata-agent-ctl vm start --name test --share /srv/rootfs
  address=$(kata-agent-ctl vm start --name test --json | jq -r .address)
  kata-agent-ctl connect --server-address "$address" -c Check
  kata-agent-ctl vm start --template small          a copy of a saved one, in milliseconds
  kata-agent-ctl vm list
  kata-agent-ctl vm stop test
  kata-agent-ctl vm stop --all"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line and its three verbs'."""
    parser = verbs.add_parser(
        "vm", help="keep virtual machines by name", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(
        dest="action", metavar="start|stop|list|plug|unplug|snapshot|restore|template|pool", required=True
    )
    start = actions.add_parser("start", help="boot a VM that stays")
    start.add_argument("--name", help="its name (default: one is made up)")
    start.add_argument(
        "--share", type=Path, metavar="DIR", help="folder to share (default: the build's busybox root)"
    )
    start.add_argument(
        "--savable",
        action="store_true",
        help="one that `vm snapshot` can save: over a serial channel, no share",
    )
    start.add_argument("--json", action="store_true", help="print JSON")
    add_copy_options(start)
    add_machine_options(start)
    start.set_defaults(run=run_start)
    stop = actions.add_parser("stop", help="stop a VM")
    stop.add_argument("name", nargs="?", help="the VM's name")
    stop.add_argument("--all", action="store_true", help="stop every VM of this user")
    stop.set_defaults(run=run_stop)
    listing = actions.add_parser("list", help="list this user's VMs")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=run_list)
    vm_plug.add_actions(actions)
    vm_snapshot.add_actions(actions)
    vm_template.add_actions(actions)
    vm_pool.add_actions(actions)


async def run_start(options: argparse.Namespace) -> int:
    """Hand the configuration to a keeper and wait for its word."""
    if wants_copy(options):
        with Progress() as progress:
            progress.show("copy")
            copy = await start_copy(options, read_own(options))
        show_machine(copy, as_json=options.json)
        return 0
    config = read_config(options, share=None, name=options.name)
    if options.share or not config.savable:
        config = replace(config, share=(options.share or find_default_rootfs(config.guest)).resolve())
    with Progress() as progress:
        progress.show("boot")
        answer = await start_keeper(Order(config))
    show_machine(answer, as_json=options.json)
    return 0


async def run_stop(options: argparse.Namespace) -> int:
    """Ask each machine's owner to end, and wait until it has."""
    if bool(options.name) == options.all:
        raise CliError("name one VM to stop, or say --all; `kata-agent-ctl vm list` shows them", status=2)
    known = {str(each["name"]): each for each in list_descriptions()}
    names = list(known) if options.all else [options.name]
    for name in names:
        if name not in known:
            raise CliError(f"no VM named {name!r}; `kata-agent-ctl vm list` shows them")
        if known[name]["running"]:
            await asyncio.to_thread(_stop_owner, name, int(str(known[name]["owner_pid"])))
    sweep_stale()
    return 0


def _stop_owner(name: str, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The folder's lock is held by that process: only now is it sure that the number has not been given away.
        if not is_owned(find_state_root() / name):
            return
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not select.select([pidfd], [], [], STOP_TIMEOUT_S)[0]:
            raise CliError(f"{name}: its owner, process {pid}, did not end within {STOP_TIMEOUT_S:g} s")
    finally:
        os.close(pidfd)


async def run_list(options: argparse.Namespace) -> int:
    """Show them; one whose owner is gone is marked stale, and the next start sweeps it away."""
    found = list_descriptions()
    if options.json:
        print(json.dumps(found))
        return 0
    if not found:
        print("no VMs; start one with: kata-agent-ctl vm start --name NAME")
        return 0
    print(f"{'NAME':<20} {'STATE':<8} {'ACCEL':<6} {'MEMORY':>7}  ADDRESS")
    for each in found:
        state = "running" if each["running"] else "stale"
        memory = f"{each['memory_mib']}M"
        print(f"{each['name']!s:<20} {state:<8} {each['accelerator']!s:<6} {memory:>7}  {each['address']}")
    return 0
