"""Hooks that the guest image brings along: programs below a folder that the host names.

Follows: Kata's agent 3.21, CreateSandbox step 5: regular files with any execute bit, no links; a folder that is not
there has none. They are sorted, where Kata's agent takes the folder's own order: that differs from boot to boot.
"""

from __future__ import annotations

import os
import stat

KINDS = ("prestart", "poststart", "poststop")


def scan(path: str) -> dict[str, list[dict[str, object]]]:
    """OCI hooks by kind, for the kinds whose folder exists."""
    found = {}
    for kind in KINDS:
        folder = os.path.join(path, kind)
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[kind] = [_make_hook(folder, kind, name) for name in names if _is_program(folder, name)]
    return found


def _make_hook(folder: str, kind: str, name: str) -> dict[str, object]:
    return {"path": os.path.join(folder, name), "args": [name, kind]}


def _is_program(folder: str, name: str) -> bool:
    mode = os.lstat(os.path.join(folder, name)).st_mode
    return stat.S_ISREG(mode) and bool(mode & 0o111)
