"""`--template` and `--pool`: machines that are copies, for `vm start` and `run`, and what cannot be asked of one.

Owns: the options, and the sentence for each that a copy cannot have. Must not know: how a copy is made.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from kata_host.cli.errors import EXIT_USAGE, CliError
from kata_host.cli.keeping import KEEPER_LOG
from kata_host.templates.copy import Copy, Own
from kata_host.templates.held import HeldVm
from kata_host.templates.store import find_template_root
from kata_host.templates.window import SOCKET, take
from kata_host.vm.root_image import INITRD
from kata_host.vm.state import check_name, find_state_root, make_private

POOL_PREFIX = "pool-"
# What the saved machine has for good: the option, its default, what to do about it.
_FIXED: tuple[tuple[str, object], ...] = (
    ("memory", None), ("cpus", None), ("max_cpus", None), ("image", INITRD), ("kernel_arg", []), ("accel", "auto"),
    ("guest_dir", None),
)  # fmt: skip
_IMPOSSIBLE = {
    "ksm": "copies share their template's pages already",
    "memory_device": "a machine with a memory device cannot be saved: leave it away",
    "savable": "a copy of a template is saved by making another template",
}
_STANDING = "a pool's machines stand still in memory that no other process can map: use --template"


def add_copy_options(parser: argparse.ArgumentParser) -> None:
    """Which template or pool, and where templates lie."""
    group = parser.add_argument_group("copies")
    group.add_argument(
        "--template", metavar="NAME", help="a private copy of this template (`vm template create`)"
    )
    group.add_argument("--pool", metavar="NAME", help="a machine that this pool has ready (`vm pool`)")
    add_place_option(group)


def add_place_option(parser: argparse._ActionsContainer) -> None:
    """Where templates lie."""
    parser.add_argument(
        "--template-dir",
        metavar="DIR",
        help="folder of templates (default: the user's cache, or KATA_CACHE_DIR)",
    )


def wants_copy(options: argparse.Namespace) -> bool:
    """Whether the machine is a copy. Raises `CliError` for what a copy cannot have."""
    if not (options.template or options.pool):
        return False
    if options.template and options.pool:
        raise CliError("--template and --pool: give one of them; a pool has a template already", EXIT_USAGE)
    source = "--template" if options.template else "--pool"
    for option, why in _IMPOSSIBLE.items():
        if getattr(options, option, None):
            raise CliError(f"{_spell(option)} with {source}: {why}", EXIT_USAGE)
    for option, default in _FIXED:
        if getattr(options, option) != default:
            raise CliError(
                f"{_spell(option)} with {source}: it is the template's for good; make another template with it:"
                " kata-agent-ctl vm template create",
                EXIT_USAGE,
            )
    if options.pool and getattr(options, "share", None):
        raise CliError(f"--share with --pool: {_STANDING}", EXIT_USAGE)
    if options.pool and options.channel == "vsock":
        raise CliError(f"--channel vsock with --pool: {_STANDING}", EXIT_USAGE)
    if getattr(options, "stdio", "rpc") == "vsock":
        raise CliError(
            f"--stdio vsock with {source}: templates listen for calls alone; leave it away", EXIT_USAGE
        )
    if options.pool and getattr(options, "name", None):
        raise CliError("--name with --pool: the machine is named already; it tells its name", EXIT_USAGE)
    return True


def read_copy(options: argparse.Namespace) -> Copy:
    """The copy that the options ask for."""
    root = find_template_root(options.template_dir)
    share = getattr(options, "share", None)
    if share is not None and not share.is_dir():
        raise CliError(f"{share}: the folder to share does not exist")
    return Copy(
        options.template,
        root,
        getattr(options, "name", None),
        options.timeout,
        share and share.resolve(),
        options.channel or "serial",
    )


def read_own(options: argparse.Namespace, root: Path | None = None) -> Own:
    """What it is to have of its own; `root` is the image of a container's root."""
    return Own(tuple(Path(disk).absolute() for disk in options.disk), root, tuple(options.nic))


async def start_copy(options: argparse.Namespace, own: Own) -> dict[str, object]:
    """A copy that stays when this process ends; its description. Raises `VmError`, OSError."""
    order = own.dump()
    if options.template:
        log = make_private(find_state_root()) / KEEPER_LOG
        held = await HeldVm.start(read_copy(options).dump(), log)
        return await held.go_on(order)
    with closing(await take(find_window(options.pool))) as taken:
        return await taken.go_on(order)


def find_window(pool: str) -> Path:
    """Where a pool hands out. Raises `CliError`."""
    check_name(pool, "a pool's name")
    path = find_state_root() / f"{POOL_PREFIX}{pool}" / SOCKET
    if not path.exists():
        raise CliError(
            f"no pool named {pool!r} runs; start it with: kata-agent-ctl vm pool --template NAME --name {pool}"
        )
    return path


def _spell(option: str) -> str:
    return f"--{option.replace('_', '-')}"
