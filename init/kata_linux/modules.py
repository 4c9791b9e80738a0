"""Loading kernel modules: finit_module(2).

Owns: the call, its flag for compressed files, and depmod's `modules.dep`. Must not know: which modules.
EEXIST means loaded already; EOPNOTSUPP that this kernel does not decompress (CONFIG_MODULE_DECOMPRESS): store
the plain .ko.
"""

from __future__ import annotations

import errno
import os

from kata_linux._libc import system_call

COMPRESSED_SUFFIXES = (".xz", ".zst", ".gz")
_COMPRESSED_FILE = 4
_SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273, "riscv64": 273, "s390x": 344, "ppc64le": 353}


def load_module(path: str, parameters: str = "") -> None:
    """Load the module in this file with its parameters (`name=value name=value`)."""
    flags = _COMPRESSED_FILE if path.endswith(COMPRESSED_SUFFIXES) else 0
    number = _SYS_FINIT_MODULE[os.uname().machine]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = parameters.encode() + b"\0"
        system_call(number, fd, data, flags, operation="finit_module", path=path)
    finally:
        os.close(fd)


def load_by_name(name: str, folder: str = "") -> None:
    """Load a module and all it needs, as `modules.dep` of this kernel says. FileNotFoundError: there is none."""
    folder = folder or f"/lib/modules/{os.uname().release}"
    with open(f"{folder}/modules.dep", encoding="utf-8") as file:
        paths = find_load_order(file.read(), name)
    if not paths:
        raise FileNotFoundError(errno.ENOENT, f"no kernel module {name} in modules.dep", folder)
    for path in paths:
        try:
            load_module(f"{folder}/{path}")
        except FileExistsError:
            continue  # loaded already


def find_load_order(text: str, name: str) -> list[str]:
    """The paths to load, the module's own last, from the text of `modules.dep`; none when it is not there. Pure."""
    wanted = name.replace("-", "_")
    for line in text.splitlines():
        path, colon, needed = line.partition(":")
        stem = path.rpartition("/")[2].partition(".")[0]
        if colon and stem.replace("-", "_") == wanted:
            return [*reversed(needed.split()), path]
    return []
