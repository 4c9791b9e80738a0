"""Which root disk the first stage is to mount, from the kernel's words. Pure.

Owns: the words `root`, `rootfstype`, `rootflags`, `ro`, `rw`, `rootfs_verity.scheme`, `rootfs_verity.hash` (as Kata's
runtimes write them), `kata.verity_offset` and `kata.root_wait`. Must not know: files, devices. What cannot be right
ends the boot, unlike PID 1's other words: there is no root to fall back on.
"""

from __future__ import annotations

from kata_linux.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEME = "dm-verity"
_KNOWN = (
    "root",
    "rootfstype",
    "rootflags",
    "rootfs_verity.scheme",
    "rootfs_verity.hash",
    "kata.verity_offset",
    "kata.root_wait",
)
DEFAULT_WAIT_S = 30
_WAIT_LIMIT_S = 3600
_OFFSET_LIMIT = 2**63 - 1


class RootPlan(Record):
    """The root disk. `root_hash` is empty where nothing is checked; `hash_offset` is in bytes, `wait_s` in seconds."""

    device: str
    fstype: str
    data: str = ""
    read_only: bool = True
    root_hash: str = ""
    hash_offset: int = 0
    wait_s: int = DEFAULT_WAIT_S


class ModuleLine(Record):
    """A line of the first stage's list: a module, and the kind of disk that needs it."""

    need: str
    path: str


def plan_root(words: Sequence[str]) -> RootPlan:
    """The plan; a later word wins. ValueError says which word is missing or wrong."""
    found = {name: value for name, _, value in (word.partition("=") for word in words) if name in _KNOWN}
    device, fstype = found.get("root", ""), found.get("rootfstype", "")
    if not device.startswith("/dev/"):
        raise ValueError(f"root={device}: the kernel command line must name the root disk, /dev/NAME")
    if not fstype:
        raise ValueError(f"rootfstype=: missing beside root={device}")
    switches = [word for word in words if word in ("ro", "rw")]
    read_only = not switches or switches[-1] == "ro"
    root_hash, offset = _plan_verity(found)
    if root_hash and not read_only:
        raise ValueError(f"rw: a root that is checked by {SCHEME} is read-only")
    wait = _parse_number("kata.root_wait", found.get("kata.root_wait", str(DEFAULT_WAIT_S)), _WAIT_LIMIT_S)
    return RootPlan(device, fstype, found.get("rootflags", ""), read_only, root_hash, offset, wait)


def _plan_verity(found: dict[str, str]) -> tuple[str, int]:
    scheme, root_hash = found.get("rootfs_verity.scheme", ""), found.get("rootfs_verity.hash", "")
    if not scheme and not root_hash:
        return "", 0
    if scheme != SCHEME:
        raise ValueError(f"rootfs_verity.scheme={scheme}: only {SCHEME} is known")
    if not root_hash:
        raise ValueError("rootfs_verity.hash=: missing beside rootfs_verity.scheme")
    return root_hash, _parse_number("kata.verity_offset", found.get("kata.verity_offset", ""), _OFFSET_LIMIT)


def _parse_number(name: str, text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= limit):
        raise ValueError(f"{name}={text}: a whole number from 1 to {limit} is needed")
    return int(text)


def list_needs(plan: RootPlan) -> tuple[str, ...]:
    """The kinds of modules that the disk needs."""
    kind = "pmem" if plan.device.startswith("/dev/pmem") else "disk"
    return (kind, plan.fstype, *(("verity",) if plan.root_hash else ()))


def parse_modules(text: str) -> list[ModuleLine]:
    """`NEED PATH` a line."""
    pairs = [line.split() for line in text.splitlines()]
    return [ModuleLine(*pair) for pair in pairs if len(pair) == 2]
