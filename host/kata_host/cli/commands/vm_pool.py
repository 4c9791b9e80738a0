"""`kata-agent-ctl vm pool`: copies of a template that stand still, ready to be handed out; in the foreground."""

from __future__ import annotations

import argparse
import asyncio

from kata_host.cli.copies import POOL_PREFIX, add_place_option
from kata_host.cli.errors import CliError
from kata_host.cli.machine import positive, positive_float
from kata_host.templates.copy import Copy
from kata_host.templates.held import HeldVm
from kata_host.templates.pool import Pool
from kata_host.templates.store import TemplateStore, find_template_root
from kata_host.templates.window import SOCKET, open_window, serve
from kata_host.vm.state import check_name, open_state

LOG = "keepers.log"
DEFAULT_SIZE = 2
MAX_SIZE = 64
LONGEST_NAME = 32 - len(POOL_PREFIX)  # its folder is one of a machine's name

_EPILOG = """examples:
  kata-agent-ctl vm pool --template small --size 4       until Ctrl-C, which gives all back that nobody took
  kata-agent-ctl run --pool small -- uname -a            in another terminal: no restore to wait for
  kata-agent-ctl vm start --pool small --json            a machine that stays, also after the pool

Each machine that stands still costs the host what its memory differs from the template's, and the process that keeps
it."""


def add_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The action's command line."""
    pool = actions.add_parser(
        "pool", help="keep copies of a template ready, in the foreground", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    pool.add_argument("--template", metavar="NAME", required=True, help="the template")
    pool.add_argument(
        "--size",
        type=positive,
        default=DEFAULT_SIZE,
        metavar="N",
        help=f"how many stand ready (default {DEFAULT_SIZE})",
    )
    pool.add_argument("--name", metavar="NAME", help="the pool's name (default: the template's)")
    pool.add_argument(
        "--timeout",
        type=positive_float,
        default=120.0,
        metavar="S",
        help="seconds to restore one (default 120)",
    )
    add_place_option(pool)
    pool.set_defaults(run=run_pool)


def _check_pool_name(name: str) -> str:
    """A name which is a machine's, too, with the prefix. Raises `CliError`, `StateError`."""
    check_name(name, "a pool's name")
    if len(name) > LONGEST_NAME:
        raise CliError(
            f"{name}: a pool's name is up to {LONGEST_NAME} letters; give it a shorter one with --name",
            status=2,
        )
    return name


async def run_pool(options: argparse.Namespace) -> int:
    """Keep the pool until a signal, or until no machine can be restored any more."""
    if options.size > MAX_SIZE:
        raise CliError(f"--size {options.size}: at most {MAX_SIZE}", status=2)
    name = _check_pool_name(options.name or options.template)
    root = find_template_root(options.template_dir)
    with TemplateStore(root).open(options.template):
        pass  # one that is not there is told at once
    order = Copy(options.template, root, timeout_s=options.timeout).dump()

    def tell(text: str) -> None:
        print(f"pool {name}: {text}", flush=True)

    taken = f"a pool named {name!r} runs already; end that one with Ctrl-C, or give this one another --name"
    with open_state(f"{POOL_PREFIX}{name}", taken=taken) as state, open_window(state.file(SOCKET)) as window:
        pool = Pool(options.size, lambda: HeldVm.start(order, state.file(LOG)), tell)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(serve(window, pool))
            try:
                await pool.run()
            finally:
                serving.cancel()
    return 0
