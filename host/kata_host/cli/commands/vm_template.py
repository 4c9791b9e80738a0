"""`kata-agent-ctl vm template create|list|remove`: saved machines that `vm start` and `run` make private copies of."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime

from kata_host.cli.copies import add_place_option
from kata_host.cli.errors import EXIT_USAGE, CliError
from kata_host.cli.machine import add_machine_options, read_config
from kata_host.cli.progress import Progress
from kata_host.cli.table import format_size, format_table
from kata_host.templates.copy import find_obstacles
from kata_host.templates.make import make_template
from kata_host.templates.manifest import Manifest, ManifestError
from kata_host.templates.store import TemplateStore, find_template_root
from kata_host.vm.base import Timeline, VmError

_EPILOG = """examples:
  kata-agent-ctl vm template create small --memory 256
  kata-agent-ctl run --template small -- uname -a
  kata-agent-ctl vm start --template small --name one
  kata-agent-ctl vm template list
  kata-agent-ctl vm template create --force small        after another build, kernel or QEMU
  kata-agent-ctl vm template remove small                machines that were made from it go on

A template holds a guest's memory, private to you, in the user's cache, in KATA_CACHE_DIR or in --template-dir."""
# What belongs to a copy, not to its template.
_FOR_COPIES = ("disk", "nic", "memory_device", "ksm")


def add_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The three actions' command lines."""
    template = actions.add_parser(
        "template", help="keep saved VMs that others are copied from", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = template.add_subparsers(dest="template_action", metavar="create|list|remove", required=True)
    create = verbs.add_parser("create", help="boot a VM, warm it up and save it")
    create.add_argument("name", metavar="NAME", help="the template's name")
    create.add_argument("--force", action="store_true", help="make it anew if there is one")
    create.add_argument("--json", action="store_true", help="print JSON")
    add_place_option(create)
    add_machine_options(create)
    create.set_defaults(run=run_create)
    listing = verbs.add_parser("list", help="list this user's templates, and whether they can be used here")
    listing.add_argument("--json", action="store_true", help="print JSON")
    add_place_option(listing)
    listing.set_defaults(run=run_list)
    remove = verbs.add_parser("remove", help="remove a template; its copies go on")
    remove.add_argument("name", metavar="NAME", help="the template's name")
    add_place_option(remove)
    remove.set_defaults(run=run_remove)


async def run_create(options: argparse.Namespace) -> int:
    """Make it, and show it."""
    for option in _FOR_COPIES:
        if getattr(options, option):
            word = option.replace("_", "-")
            raise CliError(
                f"--{word}: a template cannot have it; its copies get disks and interfaces", EXIT_USAGE
            )
    if options.channel == "vsock":
        raise CliError("--channel vsock: a template's agent is reached by its virtio port", EXIT_USAGE)
    store = TemplateStore(find_template_root(options.template_dir))
    config = read_config(options, share=None)
    timeline = Timeline()
    with Progress() as progress:
        timeline.listener = lambda stamp: progress.show(f"{options.name}: {stamp.event}")
        made = await make_template(store, options.name, config, replacing=options.force, timeline=timeline)
    _show([_describe(store, made.manifest, why=None)], as_json=options.json, one=True)
    return 0


async def run_list(options: argparse.Namespace) -> int:
    """Show them, each with why it cannot be used if so."""
    store = TemplateStore(find_template_root(options.template_dir))
    rows = []
    for each in await asyncio.to_thread(store.list):
        why = each.why if isinstance(each, ManifestError) else await _find_obstacle(store, each)
        rows.append(_describe(store, each, why))
    _show(rows, as_json=options.json)
    return 0


async def run_remove(options: argparse.Namespace) -> int:
    """Remove it."""
    await asyncio.to_thread(TemplateStore(find_template_root(options.template_dir)).remove, options.name)
    return 0


async def _find_obstacle(store: TemplateStore, manifest: Manifest) -> str | None:
    """Why no copy can be made here."""
    try:
        return "; ".join(await find_obstacles(store, manifest.name)) or None
    except (VmError, OSError) as error:
        return str(error).removeprefix(f"template {manifest.name}: ")


def _describe(store: TemplateStore, each: Manifest | ManifestError, why: str | None) -> dict[str, object]:
    row: dict[str, object] = {"name": each.name, "usable": why is None, "why_not": why}
    if isinstance(each, Manifest):
        row |= {"made": each.made, "bytes": each.allocated, "folder": str(store.root / each.data)}
        row |= {
            **each.machine,
            "versions": each.identity,
            "files": {k: asdict(v) for k, v in each.files.items()},
        }
    return row


def _show(rows: list[dict[str, object]], *, as_json: bool, one: bool = False) -> None:
    if as_json:
        print(json.dumps(rows[0] if one else rows))
        return
    if not rows:
        print("no templates; make one with: kata-agent-ctl vm template create NAME")
        return
    print(
        format_table(
            ("NAME", "MADE", "SIZE", "MEMORY", "KERNEL", "QEMU", "USABLE"), [_cells(row) for row in rows]
        )
    )


def _cells(row: dict[str, object]) -> tuple[object, ...]:
    usable = row["why_not"] or "yes"
    versions = row.get("versions")
    if not isinstance(versions, dict):
        return (row["name"], "-", "-", "-", "-", "-", usable)
    made = datetime.fromtimestamp(float(str(row["made"])), UTC).strftime("%Y-%m-%d %H:%M:%S")
    memory, qemu = f"{row['memory_mib']}M", str(versions.get("qemu", "-")).split(" ", 1)[0]
    size = format_size(int(str(row["bytes"])))
    return (row["name"], made, size, memory, versions.get("kernel", "-"), qemu, usable)
