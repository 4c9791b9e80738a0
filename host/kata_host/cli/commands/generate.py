"""`kata-agent-ctl generate-cid` and `generate-sid`: one random id, 64 characters of 0-9a-f."""

from __future__ import annotations

import argparse

from kata_host.sandbox import make_id


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both verbs' command lines."""
    for name, what in (("generate-cid", "container"), ("generate-sid", "sandbox")):
        parser = verbs.add_parser(name, help=f"print a random {what} id")
        parser.set_defaults(run=run)


async def run(_options: argparse.Namespace) -> int:
    """Print it."""
    print(make_id())
    return 0
