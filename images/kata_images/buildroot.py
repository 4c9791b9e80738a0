"""A Debian root to compile in, and running programs in such a root.

The root is packages unpacked side by side; no maintainer script runs. Programs run in mount and pid namespaces of their
own, so that mounts and left-over processes end with them, also after Ctrl-C. Root needs nothing else; an ordinary user
needs user namespaces (`kernel.unprivileged_userns_clone`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kata_images.apt import unpack
from kata_images.command import SEARCH_PATH, run
from kata_images.errors import ImageError

ENTER = """
root=$1; shift
mkdir -p "$root/dev" "$root/proc" "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
exec chroot "$root" "$@"
"""


def unpack_root(debs: Iterable[Path], root: Path) -> None:
    """Make a root of packages. The links that maintainer scripts would make are made here."""
    for deb in debs:
        unpack(deb, root)
    for name, target in {
        "bin": "usr/bin",
        "sbin": "usr/sbin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
    }.items():
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)
    awk = root / "usr/bin/awk"
    if not awk.exists() and (root / "usr/bin/mawk").exists():
        awk.symlink_to("mawk")


def enter_command(root: Path, argv: Sequence[str], *, user: int) -> list[str]:
    """Return the command line that runs a program in the root; an ordinary user becomes root of a user namespace."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    if user != 0:
        unshare += ["--user", "--map-root-user"]
    return [*unshare, "sh", "-euc", ENTER, "sh", str(root), *argv]


def run_in(
    root: Path,
    argv: Sequence[str],
    *,
    deadline_s: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run a program in the root with a bare environment and what is given."""
    bare = {"PATH": SEARCH_PATH, "LC_ALL": "C", "HOME": "/", "SOURCE_DATE_EPOCH": "1"}
    try:
        return run(
            enter_command(root, argv, user=os.geteuid()),
            deadline_s=deadline_s,
            env=bare | dict(environment or {}),
            stdin=stdin,
        )
    except ImageError as error:
        if os.geteuid() != 0 and "unshare:" in str(error):
            raise ImageError(f"no user namespaces for ordinary users here; run as root ({error})") from error
        raise
