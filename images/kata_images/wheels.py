"""Locked Python libraries of the guest: downloaded by pip against their hashes, unpacked without installing.

The requirements file has names, versions and hashes, no address: pip takes them from where the machine's pip does.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from kata_images.command import default_environment, run
from kata_images.errors import ImageError
from kata_images.network import persist

PIP_DEADLINE_S = 600.0


@dataclass(frozen=True)
class Requirement:
    """One locked library."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def line(self) -> str:
        """Return it as a line of a requirements file."""
        return f"{self.name}=={self.version}" + "".join(f" --hash=sha256:{digest}" for digest in self.hashes)


def parse_requirements(text: str, origin: str) -> list[Requirement]:
    """Read `name==version --hash=sha256:...` lines; continued lines and comments are allowed, nothing else is."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = re.fullmatch(
            r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)", content
        )
        if match is None:
            raise ImageError(f"{origin}: {content}: must be name==version with --hash=sha256:...")
        found.append(Requirement(match[1].lower(), match[2], tuple(re.findall(r"[0-9a-f]{64}", match[3]))))
    return found


def download(
    requirements: Sequence[Requirement],
    folder: Path,
    *,
    native: Collection[str],
    python: str,
    tell: Callable[[str], None],
) -> None:
    """Download wheels for the guest's Python, and sdists of what is built here; pip verifies the hashes.

    `tell` hears of what failed and is tried again.
    """
    digits = python.replace(".", "")
    wheels = [
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
        f"--abi=cp{digits}",
        "--abi=none",
    ]
    platforms = ["--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_17_x86_64", "--platform=any"]
    sources = [item for item in requirements if item.name in native]
    binaries = [item for item in requirements if item.name not in native]
    if binaries:
        persist("pip download", lambda: _pip(binaries, folder, [*wheels, *platforms]), tell)
    if sources:
        unbuilt = ["--no-binary=:all:", "--no-build-isolation"]
        persist("pip download", lambda: _pip(sources, folder, unbuilt), tell)


def _pip(requirements: Sequence[Requirement], folder: Path, options: Sequence[str]) -> None:
    listing = folder / "requirements.txt"
    listing.write_text("".join(f"{item.line}\n" for item in requirements))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv = [*pip, "--require-hashes", "--dest", str(folder), *options, "-r", str(listing)]
    run(argv, deadline_s=PIP_DEADLINE_S, env=default_environment())
    listing.unlink()


def find_file(folder: Path, requirement: Requirement) -> Path:
    """Return the downloaded file of a requirement: the one whose bytes have one of its hashes."""
    for path in sorted(folder.iterdir()):
        if sha256(path.read_bytes()).hexdigest() in requirement.hashes:
            return path
    raise ImageError(f"{requirement.name} {requirement.version}: pip downloaded no file with a locked hash")


def unpack_wheel(wheel: Path, folder: Path) -> None:
    """Unpack a wheel's packages; scripts and data of wheels are not wanted in the guest."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/" not in name and ".." not in name:
                archive.extract(name, folder)
