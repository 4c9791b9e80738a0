"""What a saved machine was made with, beside what is here: a machine restored by something else would crash later.

Owns: which facts count, where each is read, and the sentence for each difference. Must not know: files of a saved
machine, how one is restored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kata_host.vm.base import Accelerator, GuestFiles, VmConfig, VmError

PROGRAM_TIMEOUT_S = 10.0
_BANNER = "QEMU emulator version "


class VersionsDifferError(VmError):
    """What was saved cannot be restored by what is here; `differences` are sentences."""

    def __init__(self, text: str, differences: tuple[str, ...]) -> None:
        super().__init__(text)
        self.differences = differences


@dataclass(frozen=True)
class Versions:
    """What must be the same where a machine is saved and where it is restored. Each is shown to people as it is."""

    qemu: str
    accelerator: str
    cpu: str
    kernel: str
    build: str


def find_differences(saved: Versions, present: Versions) -> tuple[str, ...]:
    """Why what was saved cannot be restored here, a sentence each; none when it can. Pure."""
    told = []
    for field in fields(Versions):
        then, now = getattr(saved, field.name), getattr(present, field.name)
        if then != now:
            told.append(f"it was saved with {field.name} {then}, and here is {now}")
    return tuple(told)


def read_versions(config: VmConfig, accelerator: Accelerator, cpu: str, qemu: str) -> Versions:
    """What a machine of this configuration has here; `cpu` is QEMU's model. Raises OSError."""
    processor = _describe_host_processor() if accelerator.name == "kvm" else ""
    kernel, build = _identify_guest(config.guest)
    return Versions(qemu, accelerator.name, f"{cpu} {processor}".strip(), kernel, build)


def describe_qemu(answer: Any) -> str:
    """The version from `query-version`, written as `--version` writes it. Pure."""
    number = ".".join(str(answer["qemu"][part]) for part in ("major", "minor", "micro"))
    return f"{number} ({answer['package']})" if answer["package"] else number


async def ask_program(program: str) -> str:
    """The version of a QEMU that does not run yet. Raises `VmError`."""
    try:
        async with asyncio.timeout(PROGRAM_TIMEOUT_S):
            child = await asyncio.create_subprocess_exec(
                program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            said = (await child.communicate())[0].decode(errors="replace")
    except (OSError, TimeoutError) as exc:
        raise VmError(f"{program}: does not tell its version: {exc or 'no answer'}") from exc
    if not said.startswith(_BANNER):
        raise VmError(f"{program}: does not tell its version, but {said.strip()[:200]!r}")
    return said.splitlines()[0].removeprefix(_BANNER).strip()


def _identify_guest(guest: GuestFiles) -> tuple[str, str]:
    """The kernel's hash and the build's id; a build's manifest knows both, so nothing large is read."""
    try:
        manifest = json.loads((guest.kernel.parent / "manifest.json").read_text())
        rows = [manifest["outputs"][file.name] for file in (guest.kernel, guest.initrd)]
        if [row["size"] for row in rows] == [file.stat().st_size for file in (guest.kernel, guest.initrd)]:
            return str(rows[0]["sha256"][:12]), f"{manifest['inputs']}-{rows[1]['sha256'][:12]}"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no build of ours: the files themselves say what they are
    return _hash(guest.kernel), _hash(guest.initrd)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _describe_host_processor() -> str:
    """The host's model and a short name for its features: under KVM the guest has seen both."""
    rows: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        rows.setdefault(key.strip(), value.strip())
    features = hashlib.sha256(rows.get("flags", "").encode()).hexdigest()[:8]
    return f"({rows.get('model name', 'unknown')}, features {features})"
