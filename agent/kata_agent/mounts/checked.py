"""Devices that check the disk below them (dm-verity), made for a mount.

Owns: having device-mapper in the kernel, and the words of a refusal. Must not know: who asked for it. Blocking: run
it in a worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata_agent.errors import InvalidRequest, NotSupported
from kata_linux import dm, modules, verity

if TYPE_CHECKING:
    from kata_agent.mounts.ops import CheckedDevice


def open_device(op: CheckedDevice) -> None:
    """Make the device. Raises `InvalidRequest` for a wrong root hash, `NotSupported` without device-mapper."""
    if not os.path.exists(dm.CONTROL):
        try:
            modules.load_by_name("dm-verity")
        except FileNotFoundError as error:
            text = f"verity over {op.source}: device-mapper is not in this kernel ({error})"
            raise NotSupported(text) from None
    try:
        verity.open_device(op.name, op.verity, op.source)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
