"""`kata-agent-ctl vm snapshot|restore`: a machine that runs is saved and goes on; copies of it are brought back."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from kata_host.cli.commands.vm_plug import find_monitor
from kata_host.cli.keeping import show_machine, start_keeper
from kata_host.cli.machine import positive_float
from kata_host.cli.progress import Progress
from kata_host.vm.keeper import Order
from kata_host.vm.keeper_calls import SOCKET, call
from kata_host.vm.saved_folder import read_saved

_SNAPSHOT_EPILOG = """examples:
  kata-agent-ctl vm start --name one --savable
  kata-agent-ctl vm snapshot one /srv/saved              the machine goes on
  kata-agent-ctl vm restore /srv/saved --name two        as often as you like
  kata-agent-ctl vm restore /srv/saved --share /srv/root a copy that has a shared folder, and its memory for itself
  kata-agent-ctl vm restore /srv/saved --channel vsock   the same for vsock, where the host has no vhost-vsock

The folder holds the guest's memory: it is private to you. Removing it is `rm -r`, also while copies run."""


def add_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both actions' command lines."""
    snapshot = actions.add_parser(
        "snapshot", help="save a VM that runs; it goes on", epilog=_SNAPSHOT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    snapshot.add_argument("name", help="the VM's name; it was started with --savable")
    snapshot.add_argument("folder", metavar="FOLDER", help="a folder that is not there yet")
    snapshot.add_argument(
        "--freeze-filesystems", action="store_true", help="let disks take no more writes meanwhile"
    )
    snapshot.add_argument(
        "--unplug", action="store_true",
        help="pull what was plugged since the VM's start first, for copies cannot have it (default: refuse)",
    )  # fmt: skip
    snapshot.add_argument("--json", action="store_true", help="print JSON")
    snapshot.set_defaults(run=run_snapshot)
    restore = actions.add_parser("restore", help="start a copy of a VM that was saved")
    restore.add_argument("folder", metavar="FOLDER", help="what `vm snapshot` wrote")
    restore.add_argument("--name", help="the copy's name (default: one is made up)")
    restore.add_argument("--share", type=Path, metavar="DIR", help="folder to share (default: none)")
    restore.add_argument(
        "--timeout", type=positive_float, metavar="S", help="seconds to restore (default: as saved)"
    )
    restore.add_argument(
        "--channel", choices=("serial", "vsock"), default="serial",
        help="how its agent is reached: as the saved machine's (default), or by vsock, which is plugged",
    )  # fmt: skip
    restore.add_argument("--json", action="store_true", help="print JSON")
    restore.set_defaults(run=run_restore)


async def run_snapshot(options: argparse.Namespace) -> int:
    """Have the machine's keeper save it; each step goes to standard error."""
    socket_path = find_monitor(options.name).parent / SOCKET
    request: dict[str, object] = {
        "call": "snapshot",
        "folder": os.path.abspath(options.folder),  # noqa: ASYNC240 - asks no disk
        "freeze_filesystems": options.freeze_filesystems,
        "unplug": options.unplug,
    }
    done = await call(socket_path, request, lambda step: print(step, file=sys.stderr, flush=True))
    print(json.dumps(done) if options.json else done["folder"])
    return 0


async def run_restore(options: argparse.Namespace) -> int:
    """Hand the copy to a keeper of its own."""
    folder = Path(os.path.abspath(options.folder))  # noqa: ASYNC240 - asks no disk
    saved = read_saved(folder)
    share = options.share and options.share.resolve()
    config = replace(saved.config, name=options.name, share=share, channel=options.channel)
    if options.timeout is not None:
        config = replace(config, boot_timeout_s=options.timeout)
    with Progress() as progress:
        progress.show("restore")
        answer = await start_keeper(Order(config, folder))
    show_machine(answer, as_json=options.json)
    return 0
