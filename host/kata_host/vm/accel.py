"""Decides between KVM and emulation by trying: /dev/kvm exists on machines where no guest can run under it.

The trial boots our own kernel without a root until it says so on the console. A machine's answer is kept until
its next boot. Emulation has a thread for each processor unless `KATA_TCG_THREAD` is `single`. Knows nothing of the
machine that is started later.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

from kata_host.vm.base import Accelerator, VmError
from kata_host.vm.process import Child, ChildFailed, read_tail

VARIABLE = "KATA_TCG_THREAD"
PROBE_TIMEOUT_S = 15.0

# The last thing a kernel says that found neither an initrd nor a root: it ran its whole start-up, timers included.
_BOOTED = "Kernel panic - not syncing: VFS"


def plan_probe(program: str, kernel: Path, console: Path) -> list[str]:
    """The command line of the trial."""
    return [
        program, "-machine", "q35,accel=kvm", "-cpu", "host", "-smp", "2", "-m", "256M",
        "-nodefaults", "-nographic", "-serial", f"file:{console}", "-no-reboot",
        "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip


async def choose_accelerator(program: str, kernel: Path, cache_dir: Path) -> Accelerator:
    """KVM when a guest really starts under it, else emulation; with the reason."""
    if (missing := _find_obstacle()) is not None:
        return Accelerator("tcg", missing)
    cache = cache_dir / "accelerator.json"
    key = _make_key(program, kernel)
    if (known := _read_cache(cache, key)) is not None:
        return known
    answer = await _try_kvm(program, kernel, cache_dir)
    draft = cache.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"key": key, "name": answer.name, "reason": answer.reason}))
    draft.replace(cache)
    return answer


def wants_one_thread(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether emulated processors shall take turns (decision 0170). Raises `VmError` for a word that says neither."""
    word = environ.get(VARIABLE) or "multi"
    if word not in ("multi", "single"):
        raise VmError(f"{VARIABLE}={word}: give single or multi")
    return word == "single"


def _find_obstacle() -> str | None:
    if not os.path.exists("/dev/kvm"):
        return "no /dev/kvm"
    return None if os.access("/dev/kvm", os.R_OK | os.W_OK) else "/dev/kvm may not be opened by this user"


def _make_key(program: str, kernel: Path) -> str:
    """What an answer holds for: this boot of the machine, this program, this kernel."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {program} {kernel} {kernel.stat().st_mtime_ns}"


def _read_cache(cache: Path, key: str) -> Accelerator | None:
    try:
        kept = json.loads(cache.read_text())
        return Accelerator(kept["name"], kept["reason"]) if kept["key"] == key else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return None  # nothing kept, or kept by another version: try again


async def _try_kvm(program: str, kernel: Path, folder: Path) -> Accelerator:
    console = folder / f".probe-{os.getpid()}.console"
    log = folder / f".probe-{os.getpid()}.log"
    try:
        async with Child("kvm trial", plan_probe(program, kernel, console), log=log) as child:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await child.wait()
            except TimeoutError:
                return Accelerator("tcg", f"a kernel did not boot under KVM within {PROBE_TIMEOUT_S:g} s")
            if console.exists() and _BOOTED in console.read_text(errors="replace"):
                return Accelerator("kvm", "a trial kernel booted under it")
            said = read_tail(log, 20).splitlines()
            why = said[0] if said else "it ended without a word"
            return Accelerator("tcg", f"no guest starts under KVM: {why}")
    except ChildFailed as exc:
        return Accelerator("tcg", str(exc))
    finally:
        console.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
