"""Where and of what a run was made: what a figure means nothing without."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path


def read_cpu_model() -> str:
    """The processor's name, as /proc/cpuinfo has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def read_commit(root: Path) -> str:
    """The commit that was measured, with `+` when the tree had changes; `unknown` outside a git checkout."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def describe_machine(root: Path) -> dict[str, object]:
    """JSON-shaped."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": read_commit(root),
        "cpu": read_cpu_model(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
