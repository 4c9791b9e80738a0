"""Loading kernel modules: finit_module(2).

Owns: the call and its flag for compressed files. Must not know: which modules, nor what depends on what.
EEXIST means loaded already; EOPNOTSUPP that this kernel does not decompress (CONFIG_MODULE_DECOMPRESS): store
the plain .ko.
"""

from __future__ import annotations

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
