"""Starts virtiofsd, in either of its two forms: QEMU's own in C (Debian 12) or the Rust one (Debian 13).

Which form a program is, its help text says. The listening socket is made here and handed over, so that nobody has
to wait until it appears. Follows each program's --help.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kata_host.vm.base import VmError
from kata_host.vm.process import Child

PROGRAMS = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"))
_HELP_TIMEOUT_S = 10


def find_virtiofsd(programs: tuple[Path, ...] = PROGRAMS) -> tuple[Path, str]:
    """The first program that runs here, and its help text; Debian 13's does not run on Debian 12's libc."""
    tried: list[str] = []
    for program in programs:
        if not program.exists():
            continue
        try:
            done = subprocess.run(
                [program, "--help"], capture_output=True, timeout=_HELP_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            tried.append(f"{program}: {exc}")
            continue
        if done.returncode == 0:
            return program, (done.stdout + done.stderr).decode(errors="replace")
        tried.append(f"{program}: {done.stderr.decode(errors='replace').strip()[:200]}")
    found = "; ".join(tried) or "looked for " + ", ".join(str(program) for program in programs)
    raise VmError(
        f"no virtiofsd that runs here ({found}); install qemu-system-common (Debian 12) or virtiofsd (Debian 13)"
    )


def plan_virtiofsd(program: Path, help_text: str, fd: int, share: Path, *, root: bool) -> list[str]:
    """The command line for `program`, whose form its help text tells."""
    if "--shared-dir" in help_text:
        sandbox = ["--sandbox", "namespace"] if root else ["--sandbox", "none"]
        return [str(program), f"--fd={fd}", "--shared-dir", str(share), "--cache", "auto", *sandbox]
    if not root:
        raise VmError(f"{program} runs as root only; use sudo, or install the virtiofsd package of Debian 13")
    return [str(program), f"--fd={fd}", "-o", f"source={share}", "-o", "cache=auto", "-o", "log_level=warn"]


@asynccontextmanager
async def serve_share(share: Path, socket_path: Path, log: Path) -> AsyncIterator[Child]:
    """Export `share` on `socket_path` for one guest."""
    program, help_text = await asyncio.to_thread(find_virtiofsd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(socket_path))
        listener.listen(1)
        argv = plan_virtiofsd(program, help_text, listener.fileno(), share, root=os.geteuid() == 0)
        child = Child("virtiofsd", argv, log=log, pass_fds=(listener.fileno(),))
    async with child:
        yield child
