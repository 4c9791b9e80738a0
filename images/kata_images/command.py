"""Running other programs: with a deadline, their output kept for the error message, nothing left behind.

A failure raises ImageError with the program's last lines. On any exception (Ctrl-C too) the child is killed and
awaited before the exception goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kata_images.errors import ImageError

LAST_LINES = 25
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Where a person gets a program that is missing.
PACKAGE_OF = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "unshare": "util-linux",
    "zstd": "zstd",
    "chroot": "coreutils",
}


def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Run a program to its end and return its standard output; the environment is C locale unless given."""
    environment = dict(env) if env is not None else default_environment()
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            timeout=deadline_s,
            env=environment,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        package = PACKAGE_OF.get(argv[0], argv[0])
        raise ImageError(f"{argv[0]}: not found; install the Debian package {package}") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{argv[0]}: not done after {deadline_s:.0f} s") from error
    if done.returncode != 0:
        text = (done.stderr.strip() or done.stdout)[-16384:].decode(errors="replace")
        tail = "\n  ".join(text.strip().splitlines()[-LAST_LINES:])
        raise ImageError(f"{argv[0]} failed with status {done.returncode}:\n  {tail}")
    return done.stdout


def default_environment() -> dict[str, str]:
    """Return what every child gets: the C locale, the system's search path, and the caller's proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.lower().endswith("_proxy") or name in ("HOME", "TMPDIR", "SSL_CERT_FILE", "PIP_CONFIG_FILE")
    }
    return kept | {"LC_ALL": "C.UTF-8", "PATH": SEARCH_PATH}


def require_programs(names: Sequence[str]) -> None:
    """Raise one ImageError that names every program that is missing and its Debian package."""
    missing = [name for name in names if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        packages = " ".join(sorted({PACKAGE_OF.get(name, name) for name in missing}))
        raise ImageError(f"not found: {', '.join(missing)}; install with: apt-get install {packages}")
