"""Finds what a build made: the guest's kernel and initrd, the vsock program, the default root file system.

`KATA_GUEST_DIR` or --guest-dir names the folder of kernel and initrd; without them it is `build/guest` of the
checkout that this package runs from, else of the current folder. The other things lie beside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kata_host.vm.base import GuestFiles, VmError

VARIABLE = "KATA_GUEST_DIR"
_HINT = "build one with `kata-image build` or `scripts/run`, or name its folder with --guest-dir or KATA_GUEST_DIR"


def find_guest_dir(chosen: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder with `vmlinuz` and `initrd.img`; VmError says where it was looked for."""
    named = chosen or environ.get(VARIABLE)
    candidates = [Path(named)] if named else [root / "build" / "guest" for root in _find_roots()]
    for folder in candidates:
        if (folder / "vmlinuz").is_file() and (folder / "initrd.img").is_file():
            return folder.resolve()
    looked = ", ".join(str(folder) for folder in candidates)
    raise VmError(f"no guest (vmlinuz, initrd.img) in {looked}; {_HINT}")


def _find_roots() -> tuple[Path, ...]:
    return (Path(__file__).resolve().parents[2], Path.cwd())


def find_guest(chosen: str | None = None, environ: Mapping[str, str] = os.environ) -> GuestFiles:
    """The guest to boot."""
    folder = find_guest_dir(chosen, environ)
    built = folder.parent / "tools" / "vhost-device-vsock"
    installed = shutil.which("vhost-device-vsock")
    program = built if built.exists() else Path(installed) if installed else built
    return GuestFiles(folder / "vmlinuz", folder / "initrd.img", program)


def find_default_rootfs(guest: GuestFiles) -> Path:
    """The busybox root that comes with a build."""
    folder = guest.kernel.parent.parent / "rootfs" / "busybox"
    if not folder.is_dir():
        raise VmError(f"{folder}: no default root file system there; name one with --rootfs, or {_HINT}")
    return folder
