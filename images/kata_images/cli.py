"""`kata-image`: build the guest's image, show what is in it, fetch the tools that VMs need on this machine.

Everything it prints for a person goes to standard error; standard output is the answer (a table, or JSON with --json).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from kata_images.apt import Apt, OutdatedError
from kata_images.apt_sources import KEYRING, mirror_of_machine
from kata_images.build import build_image
from kata_images.cache import Cache
from kata_images.command import require_programs
from kata_images.errors import ImageError
from kata_images.host_tools import SUITE, fetch_tool, missing_tools
from kata_images.inputs import read_inputs
from kata_images.manifest import format_table, is_current, mega
from kata_images.pack import zstd_version
from kata_images.progress import Progress
from kata_images.recipe import read_recipe
from kata_images.workshop import Workshop

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "default.toml"
Made = TypeVar("Made")
PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb", "unshare", "chroot", "zstd")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line tool and return its exit status."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(options.run(options))
    except (ImageError, OSError) as error:
        print(f"kata-image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "kata-image: stopped; nothing is left behind, the next build goes on from the cache",
            file=sys.stderr,
        )
        return 130


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(
        prog="kata-image", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="make vmlinuz, initrd.img and manifest.json")
    build.set_defaults(run=run_build)
    build.add_argument(
        "--recipe",
        type=Path,
        default=RECIPE,
        metavar="FILE",
        help="TOML file (default: the one of this project)",
    )
    build.add_argument("--suite", help="Debian suite of the guest (default: the recipe's)")
    build.add_argument("--output", type=Path, default=Path("build/guest"), metavar="DIR")
    build.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="compile with N processes"
    )
    build.add_argument("--refresh", action="store_true", help="ask the mirror for newer packages")
    build.add_argument("--json", action="store_true", help="print the manifest")
    show = commands.add_parser("show", help="print what is in the image")
    show.set_defaults(run=run_show)
    show.add_argument("--output", type=Path, default=Path("build/guest"), metavar="DIR")
    show.add_argument("--json", action="store_true", help="print the manifest")
    tools = commands.add_parser(
        "tools", help="fetch programs that VMs need on this machine, if they are missing"
    )
    tools.set_defaults(run=run_tools)
    tools.add_argument("--output", type=Path, default=Path("build/tools"), metavar="DIR")
    tools.add_argument("--json", action="store_true", help="print where each tool is")
    for command in (build, tools):
        command.add_argument("--mirror", metavar="URL", help="Debian mirror (default: this machine's)")
        command.add_argument("--cache", type=Path, metavar="DIR", help="default: cache beside the output")
        command.add_argument("--offline", action="store_true", help="use only what is in the cache")
    return top


def run_build(options: argparse.Namespace) -> int:
    """Build, unless what is there was made from the same inputs."""
    progress = Progress(sys.stderr)
    require_programs(PROGRAMS)
    if options.jobs < 1:
        raise ImageError("--jobs: must be 1 or more")
    recipe = read_recipe(options.recipe)
    if options.suite:
        recipe = replace(recipe, image=replace(recipe.image, suite=options.suite))
    zstd = zstd_version()
    inputs = read_inputs(recipe, environment=zstd)
    output: Path = options.output
    if not options.refresh and (document := _current(output, inputs.key)):
        progress.note(f"up to date: {output}")
        return _answer(document, as_json=options.json)
    cache = Cache(options.cache or output.parent / "cache")
    with cache.locked(lambda holder: progress.note(f"waiting for another builder, process {holder}")):
        if not options.refresh and (document := _current(output, inputs.key)):
            progress.note(f"up to date: {output} (made by another builder)")
            return _answer(document, as_json=options.json)

        def build(*, refresh: bool) -> dict[str, Any]:
            apt = _apt(options, cache, recipe.image.suite, progress, refresh=refresh)
            shop = Workshop(
                inputs=inputs, apt=apt, cache=cache, progress=progress, jobs=options.jobs, zstd=zstd
            )
            return build_image(shop, output)

        document = _with_second_try(build, progress, refresh=options.refresh)
    size = mega(document["outputs"]["initrd.img"]["size"]).strip()
    progress.note(f"{output / 'initrd.img'}: {size}, {progress.total_s():.1f} s")
    return _answer(document, as_json=options.json)


def _with_second_try(work: Callable[..., Made], progress: Progress, *, refresh: bool = False) -> Made:
    try:
        return work(refresh=refresh)
    except OutdatedError as error:
        progress.note(f"asking the mirror again: {error}")
        return work(refresh=True)


def _apt(
    options: argparse.Namespace, cache: Cache, suite: str, progress: Progress, *, refresh: bool = False
) -> Apt:
    if options.mirror:
        mirror, keyring = str(options.mirror).rstrip("/"), KEYRING
    else:
        source = mirror_of_machine()
        mirror, keyring = source.uri, source.signed_by
    if refresh and options.offline:
        raise ImageError("--refresh asks the mirror, --offline forbids it: give one of them")
    return Apt(
        cache.folder,
        mirror=mirror,
        keyring=keyring,
        suite=suite,
        offline=options.offline,
        refresh=refresh,
        tell=progress.note,
    )


def _current(output: Path, key: str) -> dict[str, Any] | None:
    document = _read_manifest(output)
    beside = (output.parent / "crun").exists() and (output.parent / "rootfs/busybox/bin/busybox").exists()
    return document if document and beside and is_current(document, key, output) else None


def _read_manifest(output: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return document


def _answer(document: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(document, indent=1))
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print the manifest as a table or as it is."""
    document = _read_manifest(options.output)
    if document is None:
        raise ImageError(f"{options.output}: no manifest.json there; run kata-image build")
    print(json.dumps(document, indent=1) if options.json else format_table(document))
    return 0


def run_tools(options: argparse.Namespace) -> int:
    """Fetch the tools that are missing."""
    progress = Progress(sys.stderr)
    folder: Path = options.output
    missing = missing_tools(folder)
    if missing:
        require_programs(("apt-get", "dpkg-deb"))
        cache = Cache(options.cache or folder.parent / "cache")
        with cache.locked(lambda holder: progress.note(f"waiting for another builder, process {holder}")):

            def fetch(*, refresh: bool) -> None:
                apt = _apt(options, cache, SUITE, progress, refresh=refresh)
                for name in missing_tools(folder):
                    with progress.step(f"{name} from Debian {SUITE}"):
                        fetch_tool(name, apt, cache, folder)

            _with_second_try(fetch, progress)
    else:
        progress.note("every tool is here")
    if options.json:
        print(json.dumps({name: str(folder / name) for name in missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
