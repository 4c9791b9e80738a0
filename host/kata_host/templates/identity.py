"""What a template is bound to: a guest, a QEMU and a processor. A machine that was saved goes on with these or not at
all.

Owns: looking (`observe`) and comparing (`find_changes`, pure). Must not know: where templates lie. Looking is cheap
the second time: digests and QEMU's version are kept with what stat(2) said of each file, and hold for as long as that
holds.

Bound to: the kernel and the image of the guest by content, QEMU's version, the accelerator and its processor model,
and under KVM, where the guest sees the host's own processor, that one's flags. Memory and processors are a template's
own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from kata_host.templates.store import TemplateError
from kata_host.vm.base import Accelerator, VmConfig
from kata_host.vm.root_image import INITRD, STAGE_NAME, find_root

_VERSION_TIMEOUT_S = 20.0
_CPUINFO = Path("/proc/cpuinfo")
_CPU_WORDS = ("vendor_id", "cpu family", "model", "stepping", "flags")
# Words for people, in the order in which they are told.
_NAMES = {
    "kernel": "kernel",
    "image": "guest image",
    "qemu": "QEMU",
    "accelerator": "accelerator",
    "cpu": "processor model",
    "host_cpu": "host processor",
}

Marks = dict[str, str]
"""`PATH SIZE MTIME CTIME INODE` -> what was found out about that file."""


@dataclass(frozen=True)
class Identity:
    """Each value is text, compared as such. `kernel`, `image` and `host_cpu` are digests."""

    kernel: str
    image: str
    qemu: str
    accelerator: str
    cpu: str
    host_cpu: str

    def dump(self) -> dict[str, str]:
        """As a manifest has it."""
        return {str(key): str(value) for key, value in asdict(self).items()}


def find_changes(had: Mapping[str, str], has: Identity) -> list[str]:
    """One line for each value that a template has and this machine has not. Pure."""
    now = has.dump()
    changes = []
    for field in fields(Identity):
        before, after = had.get(field.name, "unknown"), now[field.name]
        if before != after:
            changes.append(f"it was made with {_NAMES[field.name]} {before}, here is {after}")
    return changes


def observe(config: VmConfig, accelerator: Accelerator, cpu: str, marks: Marks) -> Identity:
    """What a machine of this configuration would be bound to here. `marks` is read and filled."""
    guest = config.guest
    if config.image == INITRD:
        image = [guest.initrd]
    else:
        disk = find_root(config.image, guest)
        assert disk is not None  # noqa: S101 - only the initrd has none
        image = [guest.kernel.parent / STAGE_NAME, disk.file]
    return Identity(
        kernel=_ask(guest.kernel, digest_file, marks),
        image=" ".join([config.image, *(_ask(path, digest_file, marks) for path in image)]),
        qemu=_ask(_find_program(config.program), read_version, marks),
        accelerator=accelerator.name,
        cpu=cpu,
        host_cpu=read_host_cpu(_CPUINFO.read_text()) if accelerator.name == "kvm" else "any",
    )


def digest_file(path: Path) -> str:
    """The first half of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def read_version(program: Path) -> str:
    """QEMU's own word for its version."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise TemplateError(f"{program} --version: {error}") from error
    return done.stdout.partition("\n")[0].removeprefix("QEMU emulator version ").strip()


def read_host_cpu(cpuinfo: str) -> str:
    """A digest of what a guest can see of the first processor: maker, model and flags. Pure."""
    found: dict[str, str] = {}
    for line in cpuinfo.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _CPU_WORDS:
            found[key.strip()] = value.strip()
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:32]


def _find_program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise TemplateError(f"{name}: not found; install the package qemu-system-x86")
    return Path(os.path.realpath(found))


def _ask(path: Path, look: Callable[[Path], str], marks: Marks) -> str:
    """What `look` says of a file, which is looked at only if it is not the one that was looked at."""
    try:
        now = path.stat()
    except OSError as error:
        raise TemplateError(f"{path}: {error.strerror}; a template is bound to it") from error
    mark = f"{path} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
    if mark not in marks:
        for stale in [each for each in marks if each.startswith(f"{path} ")]:
            del marks[stale]
        marks[mark] = look(path)
    return marks[mark]
