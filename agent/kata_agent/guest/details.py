"""What the host asks about the guest before it sends containers: GetGuestDetails.

Follows: Kata's agent 3.21, "Guest resources and details". A file that is not there is "no" and 0, not an error.
"""

from __future__ import annotations

import os

from kata_agent.errors import AgentError
from kata_agent.mounts.storage.driver import DRIVERS
from kata_agent.version import AGENT_VERSION, SECCOMP, extra_features
from kata_linux.record import Record

MEMORY = "/sys/devices/system/memory"


class Details(Record):
    """The guest's properties."""

    version: str
    storage_handlers: tuple[str, ...]
    supports_seccomp: bool
    extra_features: tuple[str, ...]
    memory_block_bytes: int = 0
    has_memory_probe: bool = False


def read_details(*, memory: bool, probe: bool, memory_directory: str = MEMORY) -> Details:
    """Read what was asked for; what was not is 0 and False."""
    features = extra_features()
    return Details(
        version=AGENT_VERSION,
        storage_handlers=tuple(sorted(DRIVERS)),
        supports_seccomp=SECCOMP in features,
        extra_features=features,
        memory_block_bytes=_read_block_size(f"{memory_directory}/block_size_bytes") if memory else 0,
        has_memory_probe=probe and os.path.exists(f"{memory_directory}/probe"),
    )


def parse_block_size(text: str) -> int:
    """Hexadecimal digits. Raises `AgentError` with the text that hosts know. Pure."""
    digits = text.strip()
    if not digits or set(digits) - set("0123456789abcdefABCDEF"):
        raise AgentError(f"Invalid block size: {digits!r}")
    return int(digits, 16)


def _read_block_size(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            return parse_block_size(file.read())
    except FileNotFoundError:
        return 0
